"""The options of `gate check` that say what runs the candidate and how far: from arguments to inputs, engine and limits.

In: what was typed. Out: `Inputs`, a function that opens a candidate on the chosen engine, and the command's `Allowance`; what
cannot be meant together is a `UsageError`. Nothing here prints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol

import typer

from gate.allowance import Allowance
from gate.errors import UsageError
from gate.scan_command import written

if TYPE_CHECKING:
    from gate.endpoints.base import Endpoint, EngineOptions
    from gate.pipeline import Inputs
    from gate.records import Candidate
    from gate.scan_finding import ScanFinding
    from gate.sharding import Shard

EngineName = Literal["auto", "hf_local", "vllm_local", "ray_cluster"]
SERVED: Final = "openai_http"
"""The engine of candidates that are URLs."""

PolicyFile = Annotated[str, typer.Option("--policy", "-p", help="Policy file, or the name of a shipped one: default, strict.")]
Source = Annotated[
    str,
    typer.Option(
        "--candidate", "-c", help="Model folder, adapter folder, hf://org/name@revision, or a server's URL (with --model)."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/<candidate>-<policy>-<digests>).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and one line for the verdict.")]
Base = Annotated[str | None, typer.Option(help="Base model of an adapter (default: the one its config names).")]
Baseline = Annotated[
    str | None,
    typer.Option(help="Model to compare with: the paired test looks for regressions. last-released: the one that history knows."),
]
BaselineBase = Annotated[str | None, typer.Option(help="Base model of a baseline adapter.")]
Model = Annotated[str, typer.Option(help="Name of the served model, where the candidate is a URL.")]
BaselineModel = Annotated[str, typer.Option(help="Name of the served model, where the baseline is a URL (default: --model).")]
Engine = Annotated[EngineName, typer.Option(help="What runs the candidate; auto: hf_local for a folder, HTTP for a URL.")]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="Prompts per batch, where the engine does not batch by itself.")]
InFlight = Annotated[
    int, typer.Option(min=0, help="Most asks in flight at an engine that batches by itself; 0: the engine's own choice.")
]
MemoryShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the device's memory that vLLM may take; 0: vLLM's own choice.")
]
Workers = Annotated[int, typer.Option(min=1, help="Workers of ray_cluster, each with a whole engine.")]
GpusPerWorker = Annotated[float, typer.Option(min=0, help="GPUs of each worker of ray_cluster.")]
WorkerEngine = Annotated[Literal["hf_local", "vllm_local"], typer.Option(help="Engine of each worker of ray_cluster.")]
ShardOf = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Ask the I-th of N shards in full and decide nothing; `gate merge` decides. auto/N: as JOB_COMPLETION_INDEX says.",
    ),
]
TrainingData = Annotated[
    list[Path] | None,
    typer.Option(
        help="File or folder with the data that the candidate's training card names; may be given several times. Its overlap "
        "with the suite is reported."
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto is bfloat16 on a GPU and float32 on a CPU.")
]
MaxGenerations = Annotated[
    int | None,
    typer.Option(min=1, help="Stop when the run folder holds so many answers; what is undecided then is inconclusive."),
]
MaxMinutes = Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes of this command, in the same way.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Stop when the prompts and answers in the run folder have so many tokens, in the same way."),
]


@dataclass(frozen=True)
class Sides:
    """The candidate and what it is compared with, as given."""

    candidate: str
    base: str | None = None
    baseline: str | None = None
    baseline_base: str | None = None
    model: str = ""
    baseline_model: str = ""
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        """Refuse what could not be meant, before anything is read; a URL with credentials first, since the others are shown."""
        served = is_url(self.candidate)
        for source in (self.candidate, self.baseline):
            if source is not None and is_url(source):
                _refuse_bad_url(source)
        if served and not self.model:
            raise UsageError(
                f"{self.candidate} is a server: which of its models is meant is not said",
                expected="--model with the name under which it serves the model",
                mend="give --model NAME",
            )
        if not served and self.model:
            raise UsageError("--model belongs to a served candidate", found=f"--candidate {self.candidate}", mend="leave it out")
        if served and self.engine != "auto":
            raise UsageError(
                f"--engine {self.engine} runs a model from its files, and {self.candidate} is a URL",
                mend="leave --engine out, or give a model folder",
            )
        if served and self.base is not None:
            raise UsageError("--base belongs to an adapter folder", found=f"--candidate {self.candidate}", mend="leave it out")
        if self.baseline is not None and is_url(self.baseline) != served:
            raise UsageError(
                "candidate and baseline are not run alike: their answers would differ by the engine too",
                expected="two URLs, or two that are no URLs",
                found=f"{self.candidate} and {self.baseline}",
                mend="serve both, or give both as folders",
            )
        if self.baseline_model and (self.baseline is None or not served):
            raise UsageError("--baseline-model belongs to a served baseline", mend="leave it out, or give --baseline URL")


def load_inputs(policy: str, sides: Sides, sarif: Path | None = None, training_data: Sequence[Path] = ()) -> Inputs:
    """Resolve every argument; the candidate is read last, since it may be large. `sarif`: where what was found is written.

    `training_data`: where the files that its training card names may lie.
    """
    from gate.judges import make_judge
    from gate.overlap import overlap_of
    from gate.pipeline import Inputs, plan_of
    from gate.policy import load_policy
    from gate.suites import load_suite
    from gate.utility_set import questions_of

    loaded = load_policy(policy)
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    before, mismatch = None, loaded.policy.template_mismatch
    with written(sarif) as log:
        if sides.baseline is not None:
            notes = log.notes("baseline", sides.baseline)
            before = load_side(sides.baseline, sides.baseline_base, sides.baseline_model or sides.model, notes=notes)
        notes = log.notes("candidate", sides.candidate)
        found = load_side(sides.candidate, sides.base, sides.model, before, template_mismatch=mismatch, notes=notes)
    inputs = Inputs(
        policy=loaded.policy,
        suite=suite,
        questions=questions_of(loaded),
        candidate=found,
        baseline=before,
        judge=make_judge(loaded.policy.judge),
        today=datetime.now(UTC).date().isoformat(),
    )
    cells = plan_of(inputs.policy, suite, inputs.questions)
    asked = (case.item for cell in cells for case in cell.cases if cell.contrast != "set")
    return replace(inputs, overlap=overlap_of(found, suite.items, asked, training_data))


def load_side(
    source: str,
    base: str | None,
    model: str,
    baseline: Candidate | None = None,
    *,
    template_mismatch: Literal["refuse", "warn"] = "refuse",
    notes: list[ScanFinding] | None = None,
) -> Candidate:
    """One candidate's record: of a served model where the source is a URL, else of a folder, which is scanned."""
    if is_url(source):
        from gate.served import load_served

        return load_served(source, model)
    from gate.candidate import load_candidate

    return load_candidate(
        source,
        base=base,
        baseline_template_digest=baseline.chat_template_digest if baseline else None,
        template_mismatch=template_mismatch,
        notes=notes,
    )


def shard_of(text: str | None) -> Shard | None:
    """The shard that `--shard` names, with the environment's job index; null without one."""
    from gate.sharding import parse_shard

    return parse_shard(text, os.environ) if text is not None else None


class Sharing(Protocol):
    """Opens several candidates at one loaded engine; `SharedVllm` is one."""

    def __call__(self, candidate: Candidate, /) -> Endpoint:
        """An endpoint for one of them."""
        ...

    def close(self) -> None:
        """Free the engine."""
        ...


def _shared_vllm(sides: Sequence[Candidate], options: EngineOptions) -> Sharing:
    from gate.endpoints.vllm_local import SharedVllm

    return SharedVllm(sides, options)


@contextmanager
def opener(
    engine: EngineName,
    options: EngineOptions,
    sides: Sequence[Candidate] = (),
    *,
    share: Callable[[Sequence[Candidate], EngineOptions], Sharing] = _shared_vllm,
) -> Iterator[Callable[[Candidate], Endpoint]]:
    """A function that opens a candidate on the engine; files that were changed since they were scanned are refused.

    `sides`: all that will be opened, where they may share a loaded engine; vLLM's serves a base and the adapters on it. What they
    share is freed at the end.
    """
    shared = share(sides, options) if engine == "vllm_local" and len(sides) > 1 else None

    def open_endpoint(found: Candidate) -> Endpoint:
        from gate.candidate import check_unchanged
        from gate.endpoints import DEFAULT, ENDPOINTS

        if found.kind == "endpoint":
            return ENDPOINTS[SERVED](found, options)
        endpoint = shared(found) if shared else ENDPOINTS[DEFAULT if engine == "auto" else engine](found, options)
        try:
            check_unchanged(found)
        except BaseException:  # Ctrl-C while files are hashed, too: loaded weights must not stay
            endpoint.close()
            raise
        return endpoint

    try:
        yield open_endpoint
    finally:
        if shared is not None:
            shared.close()


def allowance(max_generations: int | None, max_minutes: float | None, max_tokens: int | None) -> Allowance:
    """The command's limits; its minutes run from now."""
    return Allowance(max_generations, max_minutes, max_tokens, clock=time.monotonic)


def _refuse_bad_url(source: str) -> None:
    """Raise `UsageError` for a URL that is no server's address, or where what served candidates need is not installed."""
    try:
        from gate.endpoints.http_server import parse_address
    except ModuleNotFoundError as error:
        raise UsageError(
            "a served candidate needs httpx and stamina", found=str(error), mend="pip install 'taskgate[endpoint]'"
        ) from error
    parse_address(source)


def is_url(source: str) -> bool:
    """Whether a candidate is given as a server's URL."""
    return source.strip().lower().startswith(("http://", "https://"))
