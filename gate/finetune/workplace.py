"""The folder that a fine-tune works in beside its output, and what makes it resumable.

    .OUT.partial/run.json         what is being made: digest of recipe and data, versions, processes
    .OUT.partial/checkpoints/     checkpoint-N folders; one counts only once its ledger.json is there, which is written last
    .OUT.partial/finished/        the folder that is renamed to OUT in the end

In: where the result shall be, and the run's identity. Out: the newest whole checkpoint, and in the end the folder at its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from gate.adapter_fit import read_json_object
from gate.errors import InfrastructureError, RecipeError
from gate.finetune.ledger import Ledger
from gate.records import Record

CARD = "training_card.json"
LEDGER = "ledger.json"


class Identity(Record):
    """What must be equal for a run to go on where another stopped."""

    recipe_digest: str
    versions: dict[str, str]
    processes: int
    device: str


class Checkpoint(Record):
    """What makes a checkpoint whole."""

    files: dict[str, int]
    """Every file with its size."""
    ledger: Ledger


class Workplace:
    """The working folder of one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.abspath(out))  # noqa: PTH100 - a link at its end is kept as it is
        self.folder = self.out.parent / f".{self.out.name}.partial"
        self.checkpoints = self.folder / "checkpoints"
        self.finished = self.folder / "finished"

    def already_there(self, recipe_digest: str) -> bool:
        """Whether the output is this recipe's. Raises `RecipeError` when it is anything else."""
        if not self.out.exists():
            return False
        found = read_json_object(self.out / CARD).get("recipe_digest") if self.out.is_dir() else None
        if found == recipe_digest:
            return True
        raise RecipeError(
            f"{self.out.name} is there and is not of this recipe",
            expected=f"a folder made of recipe and data {recipe_digest[:16]}, or nothing",
            found=f"a folder made of {str(found)[:16]}" if found else "something that no fine-tune wrote",
            mend="choose another --out, or move it away",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process that would write the same."""
        try:
            self._claim()
            lock = FileLock(self.folder / "lock", timeout=0)
            with lock:
                yield
        except Timeout as error:
            raise RecipeError(
                f"{self.out.name} is being made by another process", mend="wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise InfrastructureError(
                f"{self.out.name} can't be written", found=str(error), mend="mend the disk and run the same command again"
            ) from error

    def _claim(self) -> None:
        """Make the working folder, for this user alone. Raises `RecipeError` where one is there that another user made.

        Whoever made a new file here is asked of the file system, not of the process: a network share may own all of them alike.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            with tempfile.TemporaryFile(dir=self.out.parent) as mine:
                own = os.fstat(mine.fileno()).st_uid
            owners = {self.folder.lstat().st_uid, self.folder.stat().st_uid}
            if owners != {own}:
                raise RecipeError(
                    f"{self.folder.name} was made by another user, who may have put anything into its checkpoints",
                    expected=f"a folder of user {own}, or none",
                    found=f"one of user {', '.join(map(str, sorted(owners - {own})))}",
                    mend="move it away, or choose another --out",
                ) from None

    def begin(self, identity: Identity) -> None:
        """Note what is being made, and remove what is not whole. Raises `RecipeError` where another run's checkpoint lies."""
        shutil.rmtree(self.finished, ignore_errors=True)
        for folder in self.checkpoints.glob("checkpoint-*"):
            if _ledger_of(folder) is None:
                shutil.rmtree(folder)
        file = self.folder / "run.json"
        if self.newest() is not None:
            _refuse_other(_stored(file), identity, self.folder.name)
        written = file.with_suffix(".new")
        written.write_text(identity.model_dump_json(indent=1) + "\n", encoding="utf-8")
        written.replace(file)

    def newest(self) -> tuple[Path, Ledger] | None:
        """The newest whole checkpoint with its ledger."""
        found = [(folder, ledger) for folder in self.checkpoints.glob("checkpoint-*") if (ledger := _ledger_of(folder))]
        return max(found, key=lambda pair: pair[1].step, default=None)

    def deliver(self) -> Path:
        """Put the finished folder at its place, at once."""
        self.finished.replace(self.out)
        return self.out

    def clear(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def complete(checkpoint: Path, ledger: Ledger) -> None:
    """Sync a checkpoint's files, then write its ledger: from here on it counts."""
    sizes: dict[str, int] = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[file.relative_to(checkpoint).as_posix()] = file.stat().st_size
    written = checkpoint / f"{LEDGER}.new"
    with written.open("w", encoding="utf-8") as stream:
        stream.write(Checkpoint(files=sizes, ledger=ledger).model_dump_json())
        stream.flush()
        os.fsync(stream.fileno())
    written.replace(checkpoint / LEDGER)


def _ledger_of(folder: Path) -> Ledger | None:
    """The ledger of a whole checkpoint; None for one that was being written, or removed, when the process was killed."""
    try:
        found = Checkpoint.model_validate_json((folder / LEDGER).read_bytes())
        whole = all((folder / name).stat().st_size == size for name, size in found.files.items())
    except (OSError, ValueError):
        return None
    return found.ledger if whole else None


def _stored(file: Path) -> Identity:
    try:
        return Identity.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecipeError(
            f"{file.parent.name} was not written by this program", mend="move it away, or choose another --out"
        ) from error


def _refuse_other(found: Identity, wanted: Identity, name: str) -> None:
    """Say which part of the identity differs: the result would be neither run's."""
    for field in Identity.model_fields:
        old, new = getattr(found, field), getattr(wanted, field)
        if old != new:
            raise RecipeError(
                f"{name} holds a stopped run that differs in its {field.replace('_', ' ')}",
                expected=str(old)[:300],
                found=str(new)[:300],
                mend=f"go on as it was begun, or delete {name} and begin anew",
            )
