"""`guard`: arguments → one call → exit code. The only module that prints results; `main` is the one error boundary.

Exit codes: 0 done · 1 internal error · 2 usage, or an unusable file · 3 a bundle did not pass · 130 interrupted.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Screens prompts and answers of language models, task by task: the server, its keys and policies, and its classifiers.",
    epilog="Exit codes: 0 done, 1 internal error, 2 usage or an unusable file, 3 a bundle did not pass, 130 interrupted.",
)
policy_app = typer.Typer(no_args_is_help=True, help="Validate guard policies; print their JSON Schema.")
key_app = typer.Typer(no_args_is_help=True, help="API keys of the server.")
app.add_typer(policy_app, name="policy")
app.add_typer(key_app, name="key")

BundleFolder = Annotated[Path, typer.Option("--bundle", "-b", help="A bundle folder.", show_default="the shipped bundle")]
PublicKey = Annotated[Path | None, typer.Option(help="PEM of the key that the bundle is signed with.")]


def _default_bundle() -> Path:
    from guard_server.settings import DEFAULT_BUNDLE

    return DEFAULT_BUNDLE


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port (default 8700; 0: any free one).")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Bundle folder (default: the shipped one).")] = None,
    policies: Annotated[Path | None, typer.Option("--policies", "-p", help="guard.yaml (default: the shipped one).")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Inference threads (default 0: one per usable core).")] = None,
    log: Annotated[Literal["json", "text"] | None, typer.Option(help="Form of the log on standard error (default json).")] = None,
) -> None:
    """Serve. Everything else is set by `GUARD_...` variables (docs/guard_settings.md); an option wins over its variable."""
    from guard_server.serve import run
    from guard_server.settings import read_settings

    given: dict[str, Any] = {"host": host, "port": port, "bundle": bundle, "policies": policies, "workers": workers}
    if log is not None:
        given["log_json"] = log == "json"
    run(read_settings({name: value for name, value in given.items() if value is not None}))


@app.command()
def verify(
    bundle: BundleFolder = _default_bundle(),
    public_key: PublicKey = None,
    require_signed: Annotated[
        bool, typer.Option("--require-signed", help="Refuse a bundle without a signature, as where a key is given.")
    ] = False,
) -> None:
    """Check a bundle's files against its manifest; where a key is given, that it is signed by it."""
    from guard_server.bundle import load_bundle

    # Who gives a key asks for the signature: a bundle without one must not end with 0.
    found = load_bundle(bundle, public_key=public_key, require_signed=require_signed or public_key is not None)
    signed = "signature verified" if found.files.verified else "signed, not checked" if found.files.signed else "not signed"
    print(f"{found.spec.name} {found.spec.version}: {len(found.files.files)} files as the manifest says, {signed}")
    print(f"digest {found.digest}")


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the model to.")],
    data: Annotated[Path | None, typer.Option(help="Folder of labelled JSON Lines beside our own material.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="Hugging Face encoder folder (default: all-MiniLM-L6-v2).")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe, JSON (default: the one of this version).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Train the classifier, and score every text by models that have not seen its set."""
    from guard_server.training.train import run_train

    run_train(out, data, seed, encoder, recipe)


@app.command()
def export(
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder that `guard train` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for model.onnx and tokenizer.json.")],
) -> None:
    """Export a trained model to ONNX (fp32) and compare it with torch."""
    from guard_server.training.export import run_export

    done = run_export(model, out)
    print(f"{out}: parity {done.parity:.1e}, opset {done.opset}")


@app.command()
def bundle(
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder that `guard train` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle folder to write.")],
    data: Annotated[Path | None, typer.Option(help="The folder it was trained with; its sets that never train judge it.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key (PEM, `guard keygen`) to sign the bundle with.")] = None,
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "taskgate-guard",
    version: Annotated[str, typer.Option(help="The bundle's version.")] = "1",
    workers: Annotated[int, typer.Option(min=1, help="Threads that score texts.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Build a bundle: export, int8 with its quality gate, calibration, thresholds, self-tests, evaluation card, manifest."""
    from guard_server.training.build import run_bundle
    from guard_server.training.train import OUT_OF_FOLD

    run_bundle(model, model / OUT_OF_FOLD, out, key, data=data, name=name, version=version, workers=workers, force=force)


@app.command()
def rethreshold(
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle folder to write.")],
    version: Annotated[str, typer.Option(help="The new bundle's version.")],
    bundle: BundleFolder = _default_bundle(),
    data: Annotated[Path | None, typer.Option(help="The folder it was trained with; its sets that never train judge it.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key (PEM, `guard keygen`) to sign the bundle with.")] = None,
    documents: Annotated[int, typer.Option(min=1, help="Harmless long documents of each kind.")] = 6,
    longest: Annotated[int, typer.Option(min=1, help="Windows of each document.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Threads that score texts.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Set a bundle's thresholds for long texts again, as this version reads them; the model stays as it is."""
    from guard_server.training.rethreshold import run_rethreshold

    run_rethreshold(
        bundle, out, key, version=version, data=data, documents=documents, longest=longest, workers=workers, force=force
    )


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder of labelled JSON Lines (guard_server/training/rows.py).")],
    bundle: BundleFolder = _default_bundle(),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the figures as JSON here.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads, one core each.")] = 1,
) -> None:
    """Score labelled texts as the server does and print, per task and per set, how good the bundle is on them."""
    from guard_server.training.evaluate import run_evaluate

    run_evaluate(bundle, data, out, workers=workers)


@app.command()
def keygen(
    folder: Annotated[Path, typer.Argument(help="Where to write the private and the public key.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite keys that are there.")] = False,
) -> None:
    """Make a key pair (ECDSA P-256) for signing bundles."""
    from guard_server.training.sign import run_keygen

    private, public = run_keygen(folder, force=force)
    print(f"private {private}\npublic {public}")


@key_app.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    role: Annotated[Literal["screen", "admin"], typer.Option(help="What it may do.")] = "screen",
    rate: Annotated[str | None, typer.Option(help="Its own limit, e.g. 100/second.")] = None,
) -> None:
    """Make an API key: the key is shown once; the entry goes into the server's key file."""
    from guard_server.auth import new_key

    key, entry = new_key(name, role, rate)
    print(f"key (shown once): {key}\nentry for GUARD_API_KEYS_FILE: {entry}")


@policy_app.command("validate")
def policy_validate(
    file: Annotated[Path, typer.Argument(help="guard.yaml")],
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Check its targets against this bundle too.")] = None,
) -> None:
    """Check a policy file."""
    from guard_server.bundle import load_bundle
    from guard_server.policy import check_against, load_policies

    policies = load_policies(file)
    if bundle is not None:
        check_against(policies, load_bundle(bundle, public_key=None, require_signed=False).spec)
    print(f"{file}: valid; policies {', '.join(policies.names)}; digest {policies.digest}")


@policy_app.command("schema")
def policy_schema_command() -> None:
    """Print the JSON Schema of a policy file."""
    import json

    from guard_server.policy import policy_schema

    print(json.dumps(policy_schema(), indent=2))


@app.command()
def openapi() -> None:
    """Print the server's OpenAPI document."""
    import json

    from guard_server.serve import build
    from guard_server.settings import read_settings

    print(json.dumps(build(read_settings({})).openapi(), indent=2))


def main() -> None:
    """Run the program: the one place where errors become messages and exit codes."""
    from guard_server.errors import BundleError, GuardError

    try:
        app()
    except KeyboardInterrupt:
        print("guard: interrupted", file=sys.stderr)
        sys.exit(130)
    except (GuardError, ValidationError, ValueError, OSError, ImportError) as error:
        if os.environ.get("GUARD_DEBUG"):
            traceback.print_exc()
        print(f"guard: {_readable(error)}", file=sys.stderr)
        sys.exit(3 if isinstance(error, BundleError) else 2)
    except Exception:  # noqa: BLE001 - the boundary: a bug is code 1
        traceback.print_exc()
        print("guard: internal error; please report it with the lines above", file=sys.stderr)
        sys.exit(1)


def _readable(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
    if isinstance(error, ImportError) and error.name:
        return f"{error.name} is not installed: pip install 'taskgate[guard]' to serve, 'taskgate[guard-train]' to train"
    return str(error)
