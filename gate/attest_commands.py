"""`gate keygen|attest|verify|replay|bom`: sign what a run found, check it where a model is deployed. Called by `cli` alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gate.attest.statement import VERIFIER
from gate.errors import CandidateError, ExitCode, InfrastructureError, RefusedAttestation, UnsafeCandidateError, UsageError
from gate.records import Candidate, Decision, ManifestFile

if TYPE_CHECKING:
    from gate.attest.predicates import Evaluation
    from gate.attest.statement import Evaluated
    from gate.attest.verify import Measured, Verified
    from gate.replay import Replay

_AGE = re.compile(r"(?P<count>\d{1,6})(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
EXIT_OF = {Decision.PASS: ExitCode.PASS, Decision.BLOCK: ExitCode.BLOCK, Decision.INCONCLUSIVE: ExitCode.INCONCLUSIVE}

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the --out of a `gate check`.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the private key's passphrase (default: TASKGATE_KEY_PASSPHRASE, else none)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Hook the commands into the command line."""
    for command in (attest, verify, replay, keygen, bom):
        app.command()(command)


def keygen(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for gate-private.pem and gate-public.pem.")] = Path(),
    passphrase_file: PassphraseFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a pair that is there. The old private key is lost.")] = False,
) -> None:
    """Make a key pair (P-256) to attest with; the private key is encrypted where there is a passphrase."""
    from gate.attest import keys

    secret = keys.passphrase(passphrase_file, os.environ)
    private, public = keys.generate(out, secret, force=force)
    print(f"{private}: private, mode 0600, {'encrypted' if secret else 'not encrypted'}; keep it where only the signer reads it")
    print(f"{public}: public, key id {keys.read_public(public).keyid}")


def attest(
    run: RunFolder,
    key: Annotated[str, typer.Option("--key", "-k", help="Private key: a PEM file, or a URI (docs/attestation.md).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write (default: attestation.intoto.jsonl in RUN).")
    ] = None,
    public_key: Annotated[Path | None, typer.Option(help="Its public key (PEM); needed where the key is a URI.")] = None,
    passphrase_file: PassphraseFile = None,
    verifier: Annotated[str, typer.Option(help="URI of who vouches for the decision, e.g. your release process.")] = VERIFIER,
    model_signature: Annotated[
        Path | None, typer.Option(help="Also sign the model folder as model-signing does, and write its signature here.")
    ] = None,
) -> None:
    """Sign a run's verdict, whatever it is. It is recomputed first. Exit code 0: it was signed, not that it is a pass."""
    from gate.attest import keys
    from gate.attest.envelope import sign
    from gate.attest.predicates import statements
    from gate.json_lines import disk_failed, write_whole
    from gate.run_store import ATTESTATION

    if not re.fullmatch(r"[a-z][a-z0-9+.-]*:\S+", verifier):
        raise UsageError("--verifier wants a URI", expected="e.g. https://example.com/release-gate", found=verifier)
    secret = keys.passphrase(passphrase_file, os.environ)
    signer = keys.open_signer(key, public_key, secret)
    evaluation = _replayed(run)
    place = _outside(out or run / ATTESTATION, evaluation.candidate)
    payloads = [statement.payload() for statement in statements(evaluation, verifier=verifier, now=datetime.now(UTC))]
    if model_signature is not None:
        _sign_folder(evaluation, model_signature, key, secret)
    path = write_whole(place, sign(payloads, signer))
    try:
        path.chmod(0o644)  # it goes with the model; nothing in it is secret
    except OSError as error:
        raise disk_failed(path, error) from error
    print(f"{path}: {evaluation.verdict.decision}, {len(payloads)} statements about sha256 {evaluation.candidate.digest}")
    print(f"signed by key {signer.public_key.keyid}")
    print(f"policy digest {evaluation.verdict.policy_digest}, suite digest {evaluation.verdict.suite_digest}")


def verify(
    candidate: Annotated[str, typer.Option("--candidate", "-c", help="Model or adapter folder that is about to be deployed.")],
    attestation: Annotated[Path, typer.Option("--attestation", "-a", help="attestation.intoto.jsonl of its run.")],
    key: Annotated[list[Path], typer.Option("--key", "-k", help="Public key (PEM) that is trusted; several times for several.")],
    policy_digest: Annotated[
        list[str],
        typer.Option(help="Digest of a policy that is allowed (`gate policy validate` prints it); several times for several."),
    ],
    suite_digest: Annotated[
        list[str] | None,
        typer.Option(
            help="Digest of a suite that is allowed (`gate suite show` prints it; default: any); several times for several."
        ),
    ] = None,
    max_age: Annotated[str, typer.Option(help="Greatest age of signature and run: 30d, 12h, 90m, 60s, 2w.")] = "30d",
    verifier: Annotated[
        str, typer.Option(help="URI that must vouch for the decision: the one given to `gate attest`.")
    ] = VERIFIER,
    base: Annotated[Path | None, typer.Option(help="Base folder of an adapter (default: the one its config names).")] = None,
    model_signature: Annotated[Path | None, typer.Option(help="Check model-signing's signature of the folder too.")] = None,
    json_: Json = False,
) -> None:
    """Check an attestation against a model folder, before it is deployed. Exit code 0: every check holds; 3: one does not."""
    from gate.attest import keys
    from gate.attest.verify import Trusted
    from gate.attest.verify import verify as verify_attestation

    folder = _folder(candidate)
    policies, suites = _digests(policy_digest, "policy"), _digests(suite_digest or [], "suite")
    trusted = Trusted(tuple(map(keys.read_public, key)), verifier, policies, _age(max_age), suites)
    try:
        data = _attestation(attestation)
        found = verify_attestation(data, trusted, lambda said: _measure(folder, base, said), datetime.now(UTC))
        if model_signature is not None:
            _verify_folder(folder, model_signature, key)
    except RefusedAttestation as refusal:
        if json_:
            print(
                json.dumps(
                    {"verified": False, "check": refusal.check, "reason": refusal.problem, "found": refusal.found}, indent=1
                )
            )
        raise
    _tell(found, folder, json_=json_)


def replay(run: RunFolder, json_: Json = False) -> None:
    """Recompute a run's verdict from its folder and compare. Exit code: the verdict's own where they agree, 3 where not."""
    from gate.replay import replay as replay_run

    found = replay_run(run)
    differences = found.differences()
    if json_:
        shown = {"same": found.same, "decision": found.verdict.decision, "differences": list(differences)}
        print(json.dumps({**shown, "decided_by": found.decided_by, "replayed_by": found.replayed_by}, indent=1))
    elif found.same:
        print(f"same: verdict.json is what the folder's evidence gives, bit for bit: {found.verdict.decision}")
        if found.decided_by != found.replayed_by:
            print(f"decided by taskgate {found.decided_by}, replayed by {found.replayed_by}")
    if not found.same:
        _refuse_replay(run, found)
    raise typer.Exit(EXIT_OF[found.verdict.decision])


def bom(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (default: mlbom.cdx.json in RUN).")] = None,
) -> None:
    """Write a CycloneDX ML-BOM of a run's candidate, with each task's rate in its model card. The verdict is recomputed first."""
    from gate.attest.bom import render_bom
    from gate.json_lines import write_whole
    from gate.run_store import BOM

    evaluation = _replayed(run)
    name = Path(evaluation.candidate.path).name or "model"
    path = write_whole(_outside(out or run / BOM, evaluation.candidate), render_bom(evaluation, name))
    print(f"{path}: {name}, {len(evaluation.verdict.stats)} rates, {evaluation.verdict.decision}")


def _replayed(run: Path) -> Evaluation:
    """The run, once its verdict was found to be what its evidence gives."""
    from gate.attest.predicates import Evaluation
    from gate.records import sha256_hex
    from gate.replay import replay as replay_run

    found = replay_run(run)
    if not found.same:
        _refuse_replay(run, found)
    policy = found.policy
    return Evaluation(
        verdict=found.verdict,
        verdict_sha256=sha256_hex(found.stored),
        candidate=found.candidate,
        method=policy.decision.method,
        alpha_block=policy.decision.alpha_block,
        alpha_pass=policy.decision.alpha_pass,
        measure=policy.measure,
        decodings=(*policy.gate.decodings, *policy.report.decodings),
    )


def _outside(place: Path, candidate: Candidate) -> Path:
    """The place of a file about the candidate: in its folder, or its base's, it would change what it is about."""
    folders = () if candidate.kind == "endpoint" else (candidate.path, candidate.base_path)
    for folder in filter(None, folders):
        if place.resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(
                "what is said of a model can't lie in its folder: all that lies there is in its digest",
                expected=f"a place outside {folder}",
                found=str(place),
                mend="give --out FILE, beside the folder",
            )
    return place


def _refuse_replay(run: Path, found: Replay) -> None:
    """Raise: the stored verdict is not what the evidence gives."""
    different = found.differences()
    raise RefusedAttestation(
        "replay",
        f"{run}: verdict.json is not what the folder's evidence gives",
        expected=f"{found.verdict.decision}: {found.verdict.reason}",
        found="; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else ""),
        mend=f"gate decide {run} takes the verdict again from the evidence"
        + (
            f" (it was decided by taskgate {found.decided_by}, this is {found.replayed_by})"
            if found.decided_by != found.replayed_by
            else ""
        ),
    )


def _folder(candidate: str) -> Path:
    """The folder to verify: a verifier fetches nothing and asks nobody."""
    if re.match(r"[a-z0-9]+://", candidate):
        served = candidate.startswith("http")
        raise UsageError(
            "a served model can't be verified: its files are not here" if served else "gate verify fetches nothing",
            expected="the folder that is about to be loaded",
            found=candidate,
            mend="verify the checkpoint on the machine that serves it"
            if served
            else "download the revision, then give its folder",
        )
    folder = Path(candidate).expanduser()
    if not folder.is_dir():
        raise CandidateError(f"no folder at {candidate}", expected="a model or adapter folder", mend="check the path")
    return folder


def _measure(folder: Path, base: Path | None, said: Evaluated) -> tuple[Measured, Measured | None]:
    """Hash the folder, and the base that an attested adapter needs."""
    from gate.attest.verify import Measured

    if said.kind == "model" and base is not None:
        raise UsageError("the attestation is of a full model; a base belongs to an adapter", mend="leave --base out")
    below = _base_of(folder, base) if said.kind == "adapter" else None
    with _hashing([place for place in (folder, below) if place]) as hashed:
        found = Measured(*_manifest(folder, hashed))
        return found, None if below is None else Measured(*_manifest(below, hashed))


def _manifest(folder: Path, progress: Callable[[int], None]) -> tuple[str, tuple[ManifestFile, ...]]:
    """The folder's root digest and files; what no digest covers is a refusal of the subject."""
    from gate.manifest import manifest

    try:
        files, digest = manifest(folder, progress=progress)
    except UnsafeCandidateError as error:
        raise RefusedAttestation(
            "subject",
            f"{folder} holds what is in no digest",
            expected="plain files and folders",
            found=error.found,
            mend="deploy the checkpoint that was gated, with its links resolved (`cp -rL`)",
        ) from error
    return digest, files


def _base_of(adapter: Path, base: Path | None) -> Path:
    """The base's folder: as given, else as the adapter's config names it, as a path from the adapter or from here."""
    named: object = None
    if base is None:
        try:
            named = json.loads((adapter / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError, RecursionError):
            named = None
    places = [base] if base is not None else [adapter / named, Path(named)] if isinstance(named, str) and named else []
    for place in places:
        if place.is_dir():
            return place
    raise UsageError(
        "the attestation is of an adapter on a base, and the base's folder was not found",
        expected="a folder",
        found=", ".join(map(str, places)) or "no name in adapter_config.json",
        mend="give --base FOLDER",
    )


@contextmanager
def _hashing(folders: list[Path]) -> Iterator[Callable[[int], None]]:
    """Progress of hashing on standard error, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from gate.manifest import walk

    try:
        total = sum((folder / name).lstat().st_size for folder in folders for name, _ in walk(folder))
    except OSError as error:
        raise InfrastructureError(f"a folder can't be read: {error}", mend="make it readable and run again") from error
    console = Console(stderr=True)
    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("hashing", total=total)
        yield lambda count: progress.advance(task, count)


def _attestation(path: Path) -> bytes:
    """The file's bytes, no more than are ever read; a file that is not there is a refusal: no evidence is not a pass."""
    from gate.attest.envelope import SIZE_LIMIT

    try:
        with path.open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise RefusedAttestation(
            "attestation",
            "there is no attestation to read",
            expected=f"a file at {path}",
            found=error.strerror or type(error).__name__,
            mend="attest the model's run: gate attest RUN --key K",
        ) from error


def _digests(given: list[str], what: Literal["policy", "suite"]) -> frozenset[str]:
    """Digests as they were given, with or without the algorithm before them."""
    prints = {"policy": "gate policy validate FILE", "suite": "gate suite show SUITE"}[what]
    digests = frozenset(text.removeprefix("sha256:").lower() for text in given)
    for digest in digests:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UsageError(
                f"--{what}-digest wants a SHA-256 digest",
                expected="64 hexadecimal digits",
                found=digest,
                mend=f"`{prints}` prints the digest of a {what}",
            )
    return digests


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise UsageError("--max-age wants a number and a unit", expected="e.g. 30d, 12h, 90m, 60s, 2w", found=text)
    return timedelta(**{_UNITS[match["unit"]]: int(match["count"])})


def _sign_folder(evaluation: Evaluation, signature: Path, key: str, secret: bytes | None) -> None:
    """Sign the candidate's folder, if it is still what was evaluated."""
    from gate.attest import keys
    from gate.attest.folder_signature import sign_folder
    from gate.manifest import manifest

    folder = Path(evaluation.candidate.path)
    if keys.is_uri(key):
        raise UsageError(
            "--model-signature needs the private key in a file", mend="leave it out, or sign with model-signing itself"
        )
    if not folder.is_dir() or manifest(folder) != (evaluation.candidate.files, evaluation.candidate.digest):
        raise UsageError(
            f"{folder} is not what the run evaluated",
            expected=f"the folder with root digest {evaluation.candidate.digest}",
            found="another one" if folder.is_dir() else "no folder there",
            mend="leave --model-signature out, or bring the folder back",
        )
    sign_folder(folder, signature, Path(key), secret)


def _verify_folder(folder: Path, signature: Path, keys: list[Path]) -> None:
    """The folder's signature, by any of the trusted keys."""
    from gate.attest.folder_signature import verify_folder

    refusals: list[RefusedAttestation] = []
    for key in keys:
        try:
            verify_folder(folder, signature, key)
        except RefusedAttestation as refusal:
            refusals.append(refusal)
        else:
            return
    raise refusals[0]


def _tell(found: Verified, folder: Path, *, json_: bool) -> None:
    if json_:
        print(json.dumps({"verified": True, **found.model_dump(mode="json")}, indent=1))
        return
    base = f" on base sha256 {found.base_sha256}" if found.base_sha256 else ""
    print(f"verified: {folder} is sha256 {found.sha256}{base}")
    print(f"{found.decision}: {ascii(found.reason)[1:-1]}")
    print(f"policy {found.policy!a}, digest {found.policy_sha256}")
    print(f"suite {found.suite!a}, digest {found.suite_sha256}")
    print(f"vouched for by {found.verifier}, key {found.keyid}")
    print(f"signed {found.signed_at:%Y-%m-%dT%H:%M:%SZ}, run of {found.evaluated_on}, taskgate {found.tool_version}")
