"""Model repositories of a hub in the Hugging Face layout: `hf://org/name@revision` comes in, a pinned local folder goes out.

The hub's cache keeps snapshots as links into a pool of blobs, and the gate refuses links; so a revision is downloaded once into
a plain folder named by its commit, which appears only when it is complete. A commit that is there needs no network.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gate.errors import CandidateError, InfrastructureError
from gate.records import Record

SCHEME = "hf://"
ALLOWED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.md", "LICENSE*", "NOTICE*")
"""What is fetched, from the top of the repository and from additional_chat_templates/."""

_SOURCE = re.compile(r"hf://(?P<repo>[\w.-]+(/[\w.-]+)?)@(?P<revision>[\w./+-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Listing(Record):
    """A repository at one commit."""

    repo: str
    commit: str
    sizes: dict[str, int]
    """File → size in bytes."""

    def wanted(self) -> tuple[str, ...]:
        """The files that are fetched."""
        return tuple(sorted(name for name in self.sizes if _allowed(name)))

    def unwanted(self) -> tuple[str, ...]:
        """The files that stay on the hub."""
        return tuple(sorted(name for name in self.sizes if not _allowed(name)))


def _allowed(name: str) -> bool:
    base = name.removeprefix("additional_chat_templates/")
    return "/" not in base and any(fnmatch.fnmatch(base, pattern) for pattern in ALLOWED)


def parse_source(source: str) -> tuple[str, str]:
    """(repository, revision) of `hf://org/name@revision`. Raises CandidateError when it is not of that form."""
    match = _SOURCE.fullmatch(source)
    if match is None or ".." in source:
        raise CandidateError(
            f"not a hub model: {source}",
            expected="hf://org/name@revision",
            found="no revision" if "@" not in source else "another form",
            mend="name the commit (or a branch or tag, which is resolved to its commit and pinned)",
        )
    return match["repo"], match["revision"]


def cached(repo: str, revision: str, cache_dir: Path) -> Listing | None:
    """The listing of a full commit that was fetched before and lies complete under `cache_dir`."""
    folder = _folder(repo, revision, cache_dir)
    if not _COMMIT.fullmatch(revision) or not folder.is_dir():
        return None
    try:
        return Listing.model_validate_json(_note(folder).read_bytes())
    except (OSError, ValueError):
        return None


def list_repository(repo: str, revision: str) -> Listing:
    """Resolve `revision` to its commit and list the files. Nothing is downloaded.

    Raises CandidateError for an unknown repository or revision and in offline mode, InfrastructureError when no hub answers.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _hub_errors(repo, revision):
        api = HfApi()
        commit = api.model_info(repo, revision=revision).sha or ""
        entries = api.list_repo_tree(repo, recursive=True, revision=commit)
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    if not _COMMIT.fullmatch(commit):
        raise InfrastructureError(f"the hub names no commit for {repo}@{revision}", mend="try again, or name the commit")
    return Listing(repo=repo, commit=commit, sizes=sizes)


def download(listing: Listing, cache_dir: Path) -> Path:
    """Fetch the wanted files into a plain folder under `cache_dir` and return it; an interrupted download resumes.

    Raises InfrastructureError when the hub or the disk fails.
    """
    from filelock import FileLock
    from huggingface_hub import snapshot_download

    folder = _folder(listing.repo, listing.commit, cache_dir)
    with _hub_errors(listing.repo, listing.commit):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{listing.commit}.lock")):
            if not folder.is_dir():
                staging = folder.with_name(f"{listing.commit}.partial")
                snapshot_download(
                    listing.repo, revision=listing.commit, local_dir=staging, allow_patterns=list(map(_literal, listing.wanted()))
                )
                _check_complete(listing, staging)
                # The library's own notes on the download; they are not the model's.
                shutil.rmtree(staging / ".cache", ignore_errors=True)
                _note(folder).write_text(listing.model_dump_json(), encoding="utf-8")
                staging.rename(folder)
    return folder


def _folder(repo: str, commit: str, cache_dir: Path) -> Path:
    return cache_dir / repo.replace("/", "--") / commit


def _note(folder: Path) -> Path:
    """Where a download's listing is kept: beside the folder, which holds the model alone."""
    return folder.with_name(f"{folder.name}.listing.json")


def _literal(name: str) -> str:
    """`name` as an fnmatch pattern that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _check_complete(listing: Listing, folder: Path) -> None:
    for name in listing.wanted():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != listing.sizes[name]:
            raise InfrastructureError(
                f"the download of {listing.repo} is not complete: {name}",
                expected=f"{listing.sizes[name]} bytes",
                found="no file" if size is None else f"{size} bytes",
                mend=f"run the command again; if it stays so, delete {folder}",
            )


@contextmanager
def _hub_errors(repo: str, revision: str) -> Iterator[None]:
    """Turn what the hub's library raises into our errors: the user's mistakes into usage, everything else into infrastructure."""
    from huggingface_hub import errors

    where = f"{repo}@{revision}"
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise CandidateError(
            f"the hub has no {where}, or doesn't show it to you",
            found=str(error).splitlines()[0],
            mend="check the name and the revision; for a gated model set HF_TOKEN",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise CandidateError(
            f"{where} is not on this machine, and the hub is switched off",
            found="HF_HUB_OFFLINE is set",
            mend="give a local folder, or unset HF_HUB_OFFLINE",
        ) from error
    except (errors.HTTPError, OSError) as error:
        endpoint = os.environ.get("HF_ENDPOINT") or "the default hub"
        raise InfrastructureError(
            f"{where} could not be fetched from {endpoint}",
            found=(str(error) or type(error).__name__).splitlines()[0][:300],
            mend="check the network and the free disk space and run the same command again",
        ) from error
