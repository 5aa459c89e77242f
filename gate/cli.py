"""Arguments → one call into `pipeline` → exit code. Only the command modules print; `main` is the one error boundary.

Exit codes: 0 pass · 1 internal error · 2 usage or invalid policy · 3 blocked · 4 inconclusive · 5 infrastructure: retry, the run
resumes · 130 interrupted · 143 told to end. Everything but 0 holds the release.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gate import (
    attest_commands,
    drift_command,
    finetune_command,
    history_commands,
    plan_command,
    repair_command,
    safety_set_command,
    scan_command,
    shard_commands,
    suite_commands,
    tracking,
)
from gate import check_options as given
from gate.console import LogMode, show
from gate.errors import ExitCode, GateError, InfrastructureError, UsageError
from gate.extras import missing_extra
from gate.records import Decision

if TYPE_CHECKING:
    from gate.records import Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="A release gate for fine-tuned LLMs: attacks a checkpoint task by task and decides with anytime-valid statistics.",
    epilog="Exit codes: 0 pass, 1 internal error, 2 usage, 3 blocked, 4 inconclusive, 5 infrastructure (retry: it resumes), "
    "130 interrupted, 143 told to end. Everything but 0 holds the release.",
)
policy_app = typer.Typer(no_args_is_help=True, help="Validate policies; print the policy's JSON Schema.")
app.add_typer(suite_commands.app, name="suite")
app.add_typer(policy_app, name="policy")
app.add_typer(history_commands.app, name="history")
app.command("plan")(plan_command.plan)
app.command("scan")(scan_command.scan)
app.command("repair")(repair_command.repair)
app.command("finetune")(finetune_command.finetune)
app.command("safety-set")(safety_set_command.safety_set)
app.command("exporter")(history_commands.exporter)
attest_commands.register(app)
app.command("drift")(drift_command.drift)

EXIT_OF = {Decision.PASS: ExitCode.PASS, Decision.BLOCK: ExitCode.BLOCK, Decision.INCONCLUSIVE: ExitCode.INCONCLUSIVE}


class Format(StrEnum):
    """What a command prints on standard output."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"
    JUNIT = "junit"
    NONE = "none"


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the --out of a `gate check`.")]
Printed = Annotated[Format, typer.Option("--format", "-f", help="Report to print; all of them are written to the run folder.")]


@app.command()
def check(
    policy: given.PolicyFile,
    candidate: given.Source,
    base: given.Base = None,
    model: given.Model = "",
    baseline: given.Baseline = None,
    baseline_base: given.BaselineBase = None,
    baseline_model: given.BaselineModel = "",
    out: given.Out = None,
    engine: given.Engine = "auto",
    batch_size: given.BatchSize = 64,
    in_flight: given.InFlight = 0,
    memory_share: given.MemoryShare = 0.0,
    workers: given.Workers = 1,
    gpus_per_worker: given.GpusPerWorker = 0.0,
    worker_engine: given.WorkerEngine = "hf_local",
    shard: given.ShardOf = None,
    training_data: given.TrainingData = None,
    device: given.Device = "auto",
    dtype: given.Dtype = "auto",
    max_generations: given.MaxGenerations = None,
    max_minutes: given.MaxMinutes = None,
    max_tokens: given.MaxTokens = None,
    sarif: scan_command.Sarif = None,
    name: tracking.Name = "",
    history: tracking.History = None,
    pushgateway: tracking.Pushgateway = None,
    log: Annotated[LogMode, typer.Option(help="How progress is shown on standard error.")] = LogMode.AUTO,
    quiet: given.Quiet = False,
    format_: Printed = Format.TEXT,
) -> None:
    """Attack a candidate and decide: pass, block or inconclusive. The same command resumes an interrupted run."""
    from gate import console, pipeline
    from gate.endpoints.base import EngineOptions

    allowance = given.allowance(max_generations, max_minutes, max_tokens)
    track = tracking.begin(history, pushgateway, name, candidate, model)
    against = track.against(baseline, baseline_base, baseline_model)
    sides = given.Sides(candidate, base, against.source, against.base, model, against.model, engine)
    options = EngineOptions(device, dtype, batch_size, in_flight, memory_share, workers, gpus_per_worker, worker_engine)
    if (part := given.shard_of(shard)) is not None:
        tracking.refuse_for_shard(history, pushgateway)
    inputs = track.load(policy, sides, baseline, sarif, training_data or ())
    opening = given.opener(engine, options, [side for side in (inputs.candidate, inputs.baseline) if side])
    mode = LogMode.QUIET if quiet else log
    if part is not None:
        with opening as opener:
            raise typer.Exit(shard_commands.run(inputs, out, opener, part, batch_size, mode, allowance))
    folder = out if out is not None else pipeline.default_folder(inputs)
    with opening as opener, console.observer(mode, inputs.policy, sys.stderr) as observe:
        verdict = pipeline.check(
            inputs, folder, opener, batch_size=batch_size, observe=observe, allowance=allowance, watch=track.watch
        )
    if mode is LogMode.JSON:
        event = {"event": "done", "decision": verdict.decision, "reason": verdict.reason, "run": str(folder)}
        print(json.dumps(event), file=sys.stderr)
    track.keep(folder, verdict)
    _finish(verdict, folder, format_, quiet=quiet, say_folder=mode is not LogMode.JSON)


@app.command()
def merge(
    out: shard_commands.Out,
    shards: shard_commands.Shards,
    name: tracking.Name = "",
    history: tracking.History = None,
    pushgateway: tracking.Pushgateway = None,
    format_: Printed = Format.TEXT,
) -> None:
    """Make one run of all its shards, and decide: the verdict is the one that a single process would have given."""
    from gate.shard_pipeline import merge as merge_shards

    track = tracking.begin(history, pushgateway, name)
    verdict = merge_shards(out, shards, watch=track.watch)
    track.keep(out, verdict)
    _finish(verdict, out, format_)


@app.command()
def judge(run: RunFolder, format_: Printed = Format.TEXT) -> None:
    """Judge a run's stored answers again with this version's judge, then decide and report."""
    from gate import pipeline
    from gate.judges import make_judge
    from gate.run_store import RunStore

    _finish(pipeline.judge(run, make_judge(RunStore(run).policy().judge)), run, format_)


@app.command()
def decide(run: RunFolder, format_: Printed = Format.TEXT) -> None:
    """Take a run's verdict again from its stored judgements, and report."""
    from gate import pipeline

    _finish(pipeline.decide(run), run, format_)


@app.command()
def report(
    run: RunFolder,
    format_: Printed = Format.TEXT,
    unmasked: Annotated[bool, typer.Option(help="Show prompts and answers in full. They may be harmful to read.")] = False,
) -> None:
    """Render a run's stored verdict again. Exit code 0: the verdict was shown, not taken."""
    from gate import pipeline

    pipeline.report_again(run, unmasked=unmasked)
    _print_report(run, format_)


@app.command()
def purge(run: RunFolder) -> None:
    """Remove a run's answers and judgements; the verdict and its reports stay, without examples."""
    from gate import pipeline

    verdict = pipeline.purge(run)
    print(f"{run}: answers removed; " + (f"the verdict ({verdict.decision}) stays" if verdict else "there was no verdict yet"))


@app.command()
def conformance(
    format_: Annotated[Literal["text", "markdown", "json"], typer.Option("--format", "-f", help="Form of the table.")] = "text",
) -> None:
    """Run the known-answer cases against this gate and print the table. Exit code 0 if every case is answered right, else 1."""
    from gate.conformance import render, run_all

    results = run_all()
    show(render(results, format_))
    raise typer.Exit(ExitCode.PASS if all(r.right for r in results) else ExitCode.INTERNAL)


@policy_app.command("validate")
def policy_validate(file: Annotated[str, typer.Argument(help="Policy file, or the name of a shipped one.")]) -> None:
    """Check a policy file; says what is wrong and where."""
    from gate.policy import load_policy

    loaded = load_policy(file).policy
    print(f"{file}: valid; name {loaded.name}, digest {loaded.digest}")


@policy_app.command("schema")
def policy_schema() -> None:
    """Print the JSON Schema of policy files."""
    from gate.policy import policy_schema as schema

    show(json.dumps(schema(), indent=2))


def _finish(verdict: Verdict, folder: Path, format_: Format, *, quiet: bool = False, say_folder: bool = True) -> None:
    """Print the report and exit with the verdict's code."""
    if quiet:
        show(f"{verdict.decision.upper()}: {verdict.reason}")
    else:
        _print_report(folder, format_, say_folder=say_folder)
    raise typer.Exit(EXIT_OF[verdict.decision])


def _print_report(folder: Path, format_: Format, *, say_folder: bool = True) -> None:
    from gate.report import FORMATS

    if format_ is not Format.NONE:
        show((folder / FORMATS[format_.value].file).read_text(encoding="utf-8"))
    if say_folder:
        print(f"run folder: {folder}", file=sys.stderr)


def main() -> None:
    """Run the command line; every error leaves through here with its code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except GateError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            _interrupted()
        raise
    except MemoryError:
        _fail(
            InfrastructureError("out of memory", mend="use a smaller --batch-size or a larger machine; the same command resumes")
        )
    except Exception as error:  # noqa: BLE001 - the boundary: a bug is code 1, never a verdict
        if isinstance(error, ModuleNotFoundError) and (told := missing_extra(error)):
            _fail(told)
        traceback.print_exc()
        print("gate: internal error; please report it with the lines above", file=sys.stderr)
        sys.exit(ExitCode.INTERNAL)


def _interrupted() -> ExitCode:
    print("interrupted; the same command resumes", file=sys.stderr)
    return ExitCode.INTERRUPTED


def _terminated(*_: object) -> None:
    """SIGTERM ends it as Ctrl-C does: a container's first process has no default for it and would run on until it is killed."""
    print("told to end; the same command resumes", file=sys.stderr)
    sys.exit(ExitCode.TERMINATED)


def _fail(error: GateError) -> None:
    kind = "usage" if isinstance(error, UsageError) else type(error).__name__
    print(f"gate: {kind}: {error.diagnostics()}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
