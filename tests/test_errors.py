"""Errors as a person reads them."""

from __future__ import annotations

from gate.errors import GateError


def test_what_an_error_quotes_does_not_act_on_a_terminal() -> None:
    """Escapes, carriage returns, text directions and surrogates of a quoted name are written out; lines and letters stay."""
    error = GateError("no model übung", found="\x1b[2Jpass\r\u202egpj\udc80\x9b0m\n    - next", mend="rename it")
    assert error.diagnostics() == (
        "no model übung\n  found: \\x1b[2Jpass\\r\\u202egpj\\udc80\\x9b0m\n    - next\n  to mend: rename it"
    )
