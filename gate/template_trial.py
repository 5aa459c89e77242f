"""Renders a sample conversation with an untrusted chat template on many days, in a process with little memory and time.

In: the template's text. Out: why it must not be used, or nothing. Only a template that names `strftime_now` is rendered at all.
Run as `python -m gate.template_trial` the module is that process: the template comes by standard input, one word goes out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from gate.chat_template import environment
from gate.template_days import TEMPLATE_ERRORS, Clock, only_prints_the_day

MAX_TEXT: Final = 1024 * 1024
"""Characters that a sample conversation of a few words may become."""
MEMORY: Final = 1024 * 1024 * 1024
"""Bytes of address space for the process that renders."""
SECONDS: Final = 20
"""Of processor time for all days together; the wall clock gets three times as much, for a busy machine."""

_TOKENS: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_USER: Final = {"role": "user", "content": "Name three rivers."}
SAMPLES: Final[tuple[Sequence[Mapping[str, str]], ...]] = (
    [_USER],
    [{"role": "system", "content": "Answer briefly."}, _USER],
    [_USER, {"role": "assistant", "content": "Rhine, Po and Loire."}, {"role": "user", "content": "One more."}],
)
"""With and without a system turn, and a longer one. A template may refuse any of them, if it does so on every day."""

_FAULTS: Final = {
    "same": "",
    "differs": "its text changes with the day by more than the date it prints, so production may see another prompt",
    "long": f"it makes more than {MAX_TEXT} characters of a short conversation",
}


def day_fault(text: str) -> str:
    """Why a template that compiles must not be used, as seen on many days; empty when it may be."""
    if "strftime_now" not in text:
        return ""
    command = [sys.executable, "-P", "-m", "gate.template_trial"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module; the template goes in as data
            command, input=text.encode("utf-8", "replace"), capture_output=True, timeout=3 * SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to render"
    word = done.stdout.decode("ascii", "replace")
    return _FAULTS.get(word, f"it takes more than {SECONDS} s or {MEMORY >> 20} MiB to render a short conversation")


class _TooLong(Exception):  # noqa: N818 - it is caught here, never shown
    """The text grows beyond `MAX_TEXT`."""


def trial(text: str) -> str:
    """`same`, `differs` or `long`. Renders in this process, without a limit but that of the text's length."""
    made = environment()
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    template = made.from_string(text)

    def render(turns: Sequence[Mapping[str, str]], clock: Clock) -> str | None:
        given = {"messages": [dict(turn) for turn in turns], "tools": None, "documents": None, **_TOKENS}
        parts: list[str] = []
        size = 0
        try:
            for part in template.generate(**given, add_generation_prompt=True, strftime_now=clock):
                parts.append(part)
                size += len(part)
                if size > MAX_TEXT:
                    raise _TooLong
        except TEMPLATE_ERRORS:
            return None
        return "".join(parts)

    try:
        same = all(only_prints_the_day(lambda clock, turns=turns: render(turns, clock)) for turns in SAMPLES)  # type: ignore[misc]
    except _TooLong:
        return "long"
    return "same" if same else "differs"


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: object) -> str:
    """As transformers writes JSON: without escaping HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)  # type: ignore[arg-type]


def _raise(message: str) -> str:
    raise ValueError(message)


def _main() -> None:
    """The limited process."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(1, trial(sys.stdin.buffer.read().decode("utf-8")).encode("ascii"))


if __name__ == "__main__":
    _main()
