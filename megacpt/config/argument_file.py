# SPDX-License-Identifier: Apache-2.0
"""Options of a shell script or a file of arguments (``--lr 1e-4 --bf16``), its variables filled in.

Nothing is run: assignments, defaults (``${TP:-2}``) and sums of whole numbers are worked out, and
what stands in a condition is taken as if it held.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

_ASSIGNMENT = re.compile(r"\s*(?:(?:export|local|readonly|declare)\s+)?(\w+)\+?=(.*)")
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^{}]*))?\}|\$(\w+)")
_SUM = re.compile(r"\$\(\((.+)\)\)")
_OPTION = re.compile(r"--[A-Za-z]")
_QUOTED_OPTIONS = re.compile(r"\s*--[\w-]+(?:\s|=.*\s--)")
"""One word that is several options, or one with its value; no value that holds a space."""
_OTHERS_OPTIONS = re.compile(r"\$\{?\w*(?:ARGS|OPTIONS|OPTS|\[@\])")
_ENDS = frozenset({"|", "||", "&&", "&", ";", ">", ">>", "2>&1", "\\"})
_SIGNS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
}
NESTED_MAX = 20
"""Variables that hold variables, before one is taken to hold itself."""


def options_of(script: str) -> Iterator[tuple[str, Any]]:
    """Each option with its value: a text, a tuple of several, or True for an option alone."""
    variables: dict[str, str] = {}
    for line in script.replace("\\\n", " ").splitlines():
        assigned = _ASSIGNMENT.fullmatch(line)
        if assigned is not None and not _OPTION.search(line):
            variables[assigned[1]] = _value(assigned[2], variables=variables)
        else:
            text = assigned[2] if assigned is not None else line
            yield from _options([_filled(word, variables=variables) for word in _words(text)])


def _options(words: list[str]) -> Iterator[tuple[str, Any]]:
    starts = [n for n, word in enumerate(words) if _OPTION.match(word)]
    for start, end in pairwise([*starts, len(words)]):
        name, equals, first = words[start].partition("=")
        values = [first] if equals else []
        for word in words[start + 1 : end]:
            if word in _ENDS or _OTHERS_OPTIONS.search(word):
                break
            values.append(word)
        yield name, (tuple(values) if len(values) > 1 else values[0]) if values else True


def _words(line: str) -> list[str]:
    """Words of a line, which may be a piece of a quoted text or of an array."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        words = re.sub(r"(^|\s)#.*", "", line).replace('"', " ").replace("'", " ").split()
    parts = [part for w in words for part in (w.split() if _QUOTED_OPTIONS.match(w) else [w])]
    bare = [part if "$(" in part else part.strip("()") for part in parts]
    return [part for part in bare if part]


def _value(text: str, *, variables: dict[str, str]) -> str:
    if _SUM.search(text):
        return _filled(text.strip(), variables=variables)
    words = _words(text)
    return _filled(words[0], variables=variables) if words else ""


def _filled(text: str, *, variables: dict[str, str]) -> str:
    """The text with the variables that are known; the others stay as they are."""
    for _ in range(NESTED_MAX):
        filled = _VARIABLE.sub(
            lambda m: variables.get(m[1] or m[3], (m[2] or "").strip("\"'") or m[0]), text
        )
        if filled == text:
            break
        text = filled
    return _SUM.sub(lambda m: _calculated(m[1], variables=variables) or m[0], text)


def _calculated(text: str, *, variables: dict[str, str]) -> str | None:
    named = re.sub(r"[A-Za-z_]\w*", lambda m: variables.get(m[0], m[0]), text)
    try:
        return str(_result(ast.parse(named.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _result(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_result(node.left), _result(node.right))
    raise ValueError("not a sum of whole numbers")
