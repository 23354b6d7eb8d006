# SPDX-License-Identifier: Apache-2.0
"""Find the longest run of code lines that stands at two places of some files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

Line = tuple[str, str]
"""Place, and text without the blanks around it."""


def longest_repetition(sources: Mapping[str, str]) -> tuple[int, list[tuple[str, str]]]:
    """Length of the longest run, and the pairs of places where one begins; they do not overlap.

    Lines are stripped; blank ones, comments and imports are left out.
    """
    lines: list[Line] = []
    for name, source in sources.items():
        lines += _code_lines(name, source)
        # Equal to no line, so that no run goes on in the next file.
        lines.append(("", f"# end of {name}"))
    longest, pairs = 0, _repeats(lines, length=1)
    found = pairs
    while pairs:
        longest, found = longest + 1, pairs
        pairs = _repeats(lines, length=longest + 1)
    return longest, [(lines[first][0], lines[again][0]) for first, again in found]


def _code_lines(name: str, source: str) -> Iterator[Line]:
    imports = (
        n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))
    )
    left_out = {i for n in imports for i in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    for number, line in enumerate(map(str.strip, source.splitlines()), start=1):
        if line and not line.startswith("#") and number not in left_out:
            yield f"{name}:{number}", line


def _repeats(lines: list[Line], *, length: int) -> list[tuple[int, int]]:
    """First and later starts of equal runs of a length."""
    seen: dict[tuple[str, ...], int] = {}
    texts = [text for _, text in lines]
    runs = (tuple(texts[start : start + length]) for start in range(len(texts) - length + 1))
    firsts = [(seen.setdefault(run, start), start) for start, run in enumerate(runs)]
    return [(first, start) for first, start in firsts if start - first >= length]
