"""Layer L1 for code: is there code in the answer, and does it do anything? Text in; a reading out. Code is parsed, never run.

Python goes through `ast`; other languages, one-line sketches and code cut off by the length limit through the shapes of lines.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import Literal

MAX_CODE_CHARS = 20_000

_FENCE = re.compile(r"```[ \t]*([\w+#-]{0,20})[^\n]*\n(.*?)(?:```|\Z)", re.S)
_LINE_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))(?:#(?!include|define|!)|//|--\s|;;)[^\n]*")
_BLOCK_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|<!--.*?(?:-->|\Z)|\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z)", re.S)
_LINE_SHAPES = re.compile(
    r"^\s*(?:(?:async )?def \w+\s*\(.*|class \w+.*[:{]|(?:import|from|using|package|#include|require|use)\b.*|"
    r"(?:if|elif|while|for|with|switch|catch|foreach)\b.*[:{;)]\s*.*|(?:else|try|finally|do|except\b.*)\s*[:{].*|return\b.*|raise\b.*|"
    r"(?:public|private|protected|static|final|void|int|float|double|char|bool|string|auto|const|let|var|func|fn|function)\b.*[;{(=].*|"
    r"[\w.\[\]\"'$:*-]+(?:\s*,\s*[\w.]+)*\s*[-+*/|&]?=(?!=)\s*\S.*|[\w.$:>-]+\(.*\)?[;{]?\s*|[{}\])]+[;,]?\s*|(?:SELECT|INSERT|CREATE|UPDATE|DELETE)\b.*|"
    r"(?:print|echo|printf|cout)\b.*|#!.*|@\w+.*|pass|break;?|continue;?|end|fi|done|then|yield\b.*|await\b.*)$"
)
_STUB_LINE = re.compile(
    r"^\s*(?:pass|\.\.\.|return(?: None| null| nil| false| False)?;?|raise NotImplementedError\b.*|"
    r"throw new \w*(?:NotImplemented|Unsupported)\w*\b.*|"
    r"[{}()\]\[;]*|todo!?\(.*\);?|unimplemented!\(.*\);?|(?:async )?def \w+\s*\(.*|class \w+.*|"
    r"(?:public |private |protected |static |export |async )*(?:void|int|bool|string|function|func|fn)\b[^;={]*\{?\s*\}?|"
    r"(?:import|from|using|package|#include)\b.*|@\w+.*)\s*$"
)


@dataclass(frozen=True)
class CodeReading:
    """What an answer holds as code: `none`; `stub`, which does nothing; `talk`, which only prints or returns words; `working`."""

    kind: Literal["none", "stub", "talk", "working"]
    prose: str
    """The answer without its code: what the model says beside it."""
    said_in_code: str
    """Comments and strings of a stub or of talking code: a refusal may stand there."""


def read_code(text: str) -> CodeReading:
    """Find the code of an answer (fenced, or the whole text) and say what it does."""
    text = text[:MAX_CODE_CHARS]
    blocks = [m.group(2) for m in _FENCE.finditer(text)]
    prose = _FENCE.sub("\n", text) if blocks else ""
    if not blocks:
        bare, prose = _bare_code(text)
        blocks = [bare] if bare.strip() else []
    if not blocks:
        return CodeReading("none", text, "")
    kinds = [_kind(block) for block in blocks]
    for kind in ("working", "talk", "stub"):
        if kind in kinds:
            said = "" if kind == "working" else "\n".join(_words_in(b) for b in blocks)
            return CodeReading(kind, prose, said)
    return CodeReading("none", text, "")


def _parse(code: str) -> ast.Module | None:
    """The syntax tree of Python code, of its longest prefix of lines when it was cut off, else None."""
    lines = code.rstrip().split("\n")
    for drop in range(min(4, len(lines))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse("\n".join(lines[: len(lines) - drop]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _bare_code(text: str) -> tuple[str, str]:
    """Code and prose of an unfenced answer: code is the text from its first to its last code-shaped line, if most lines are."""
    lines = text.split("\n")
    shaped = [i for i, line in enumerate(lines) if line.strip() and (_LINE_SHAPES.match(line[:300]) or _is_comment(line))]
    firm = [i for i in shaped if not _is_comment(lines[i])]
    if not firm or not _has_code_mark(text):
        return "", text
    start, stop = shaped[0], shaped[-1] + 1
    inside = [line for line in lines[start:stop] if line.strip()]
    if len(shaped) < 0.5 * len(inside) and _parse("\n".join(lines[start:stop])) is None:
        return "", text
    return "\n".join(lines[start:stop]), "\n".join([*lines[:start], *lines[stop:]])


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "//", "/*", "*", "--", '"""', "'''", "<!--"))


def _has_code_mark(text: str) -> bool:
    """A sign that prose does not carry: a call, an assignment, a definition, a brace or a semicolon at a line's end."""
    return bool(
        re.search(r"\w\([^()\n]{0,200}\)|^\s*\w+\s*=\s*\S|\bdef \w|[;{]\s*$|^\s*#include|^import \w|^from \w+ import", text, re.M)
    )


def _kind(code: str) -> Literal["none", "stub", "talk", "working"]:
    tree = _parse(code)
    if tree is not None and tree.body:
        return _tree_kind(tree)
    if tree is not None:
        return "stub" if code.strip() else "none"
    bare = _LINE_COMMENT.sub("", _BLOCK_COMMENT.sub("", code))
    lines = [line for line in bare.split("\n") if line.strip()]
    if not lines:
        return "stub"
    doing = [line for line in lines if not _does_nothing(line)]
    shaped = [line for line in doing if _LINE_SHAPES.match(line[:300])]
    if not doing:
        return "stub"
    if not shaped:
        return "none"
    talking = all(
        re.match(r"\s*(?:print|echo|printf|puts|console\.log|return|raise|throw|System\.out)\b", line) for line in shaped
    )
    return "talk" if talking and not re.search(r"return\s+\w+\(", bare) else "working"


def _does_nothing(line: str) -> bool:
    """A line of a stub; a definition with its body on the same line is not one."""
    return bool(_STUB_LINE.match(line)) and not re.match(r"\s*(?:async )?def \w+\s*\([^)]*\)[^:]*:\s*\S", line)


def _tree_kind(tree: ast.Module) -> Literal["none", "stub", "talk", "working"]:
    """Judge the statements that remain when definitions are opened and docstrings, imports and empty statements are dropped."""
    doing = [s for s in _statements(tree.body) if not _is_empty(s)]
    if not doing:
        defined = any(
            isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom) for s in tree.body
        )
        strings = any(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in tree.body)
        return "stub" if defined or strings or not _only_names(tree) else "none"
    if all(_only_names_statement(s) for s in doing):
        return "none"
    return "talk" if all(_only_talks(s) for s in doing) else "working"


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements with function and class bodies opened."""
    found: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.extend(_statements(statement.body))
        else:
            found.append(statement)
    return found


def _is_empty(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Return):
        return statement.value is None or (
            isinstance(statement.value, ast.Constant) and not isinstance(statement.value.value, str)
        )
    return isinstance(statement, ast.Raise)


def _only_names_statement(statement: ast.stmt) -> bool:
    """A bare word or expression of words, as prose that happens to parse."""
    return isinstance(statement, ast.Expr | ast.AnnAssign) and not any(isinstance(n, ast.Call) for n in ast.walk(statement))


def _only_names(tree: ast.Module) -> bool:
    return bool(tree.body) and all(_only_names_statement(s) for s in tree.body)


def _only_talks(statement: ast.stmt) -> bool:
    """Prints, logs or returns a literal text and nothing else."""
    if isinstance(statement, ast.Return):
        return isinstance(statement.value, ast.Constant | ast.JoinedStr)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        name = ast.unparse(statement.value.func)
        return name.split(".")[-1] in {"print", "warn", "warning", "info", "error", "exit"} and all(
            isinstance(a, ast.Constant | ast.JoinedStr) for a in statement.value.args
        )
    return False


def _words_in(code: str) -> str:
    """Comments, docstrings and longer strings of a piece of code, one per line."""
    comments = [re.sub(r"^[\s#/*;<!-]+|[\s*/>-]+$", "", m.group(0)) for m in _LINE_COMMENT.finditer(code)]
    blocks = [m.group(0).strip("\"'/*<!-> \n") for m in _BLOCK_COMMENT.finditer(code)]
    strings = [m.group(2) for m in re.finditer(r"(['\"])((?:(?!\1)[^\n\\]){8,400})\1", code)]
    return "\n".join([*comments, *blocks, *strings])
