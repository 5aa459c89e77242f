"""The gate's error tree; one boundary in `cli` turns each into an exit code.

    GateError
    ├── UsageError            2   a policy, suite, argument or run folder that cannot be used as given
    │   ├── PolicyError
    │   ├── SuiteError
    │   ├── CandidateError        the folder or name does not lead to a loadable checkpoint
    │   ├── RecipeError           a fine-tuning recipe, or the data it names, that cannot be used
    │   ├── RunStoreError         a run folder of something else, in use, or damaged
    │   └── AttestError           a key, or a run, that can't be used to sign or verify
    ├── UnsafeCandidateError  3   the scan found what must not be loaded; the release is held
    ├── RefusedAttestation    3   what was signed does not let this model pass; says which check failed
    └── InfrastructureError   5   disk, memory or network failed; the same command resumes

An error says what was expected, what was found and what to do; `diagnostics()` prints the three.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns. Everything but `PASS` holds the release."""

    PASS = 0
    INTERNAL = 1
    USAGE = 2
    BLOCK = 3
    INCONCLUSIVE = 4
    INFRASTRUCTURE = 5
    INTERRUPTED = 130
    TERMINATED = 143


class GateError(Exception):
    """Base of every error this program raises on purpose."""

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, problem: str, *, expected: str = "", found: str = "", mend: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.mend = mend

    def diagnostics(self) -> str:
        """The message for a person: the problem, then what was expected, found, and what to do.

        It may quote what others wrote (a file's name, a server's answer): what would act on a terminal is written as its escape.
        """
        parts = [("expected", self.expected), ("found", self.found), ("to mend", self.mend)]
        text = "\n".join([self.problem, *(f"  {name}: {text}" for name, text in parts if text)])
        return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


class UsageError(GateError):
    """The command cannot be carried out as given."""

    exit_code = ExitCode.USAGE


class PolicyError(UsageError):
    """The policy file is not a valid policy."""


class SuiteError(UsageError):
    """A suite's data is missing, damaged or of another format."""


class CandidateError(UsageError):
    """The candidate does not lead to a checkpoint that can be loaded."""


class RecipeError(UsageError):
    """The fine-tuning recipe is not valid, or the data that it names can't be trained on."""


class RunStoreError(UsageError):
    """The run folder belongs to another run, is in use, or is damaged."""


class AttestError(UsageError):
    """A key or a run that can't be used to sign or to verify."""


class UnsafeCandidateError(GateError):
    """The candidate holds something that must not be loaded."""

    exit_code = ExitCode.BLOCK


class RefusedAttestation(GateError):  # noqa: N818 - nothing went wrong: the attestation was read and refused
    """The attestation does not let this model pass. `check` names the first check that failed."""

    exit_code = ExitCode.BLOCK

    def __init__(self, check: str, problem: str, *, expected: str = "", found: str = "", mend: str = "") -> None:
        super().__init__(problem, expected=expected, found=found, mend=mend)
        self.check = check


class InfrastructureError(GateError):
    """The machine failed, not the candidate: retry, and the run resumes."""

    exit_code = ExitCode.INFRASTRUCTURE
