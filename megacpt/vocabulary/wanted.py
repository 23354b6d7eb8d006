# SPDX-License-Identifier: Apache-2.0
"""The file that says which tokens to add: words as they stand in a text, or merges of BPE.

Words are one a line, and blanks in front of them count. Merges have the form of merges.txt, which
begins with ``#version``: two entries of the vocabulary a line, and behind a tab whatever helps to
read it. A proposal (megacpt.vocabulary.propose) is written as merges, since a text alone does not
say from which of its parts a token is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.errors import DataError

MERGES = "#version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a file asks for, in its order; one of the two is empty."""

    path: Path
    words: tuple[str, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()


def read_wanted(path: Path) -> Wanted:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist; write it with a token on each line, or let "
            "megacpt vocabulary --propose write one."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}; write it again.") from error
    # Only these end a line: other separators of Unicode may be part of a token.
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[0].startswith(MERGES):
        wanted = Wanted(path=path, merges=tuple(_pairs(lines, path=path)))
    else:
        wanted = Wanted(path=path, words=tuple(dict.fromkeys(w for w in lines if w.strip())))
    if not wanted.words + wanted.merges:
        raise DataError(f"{path} names no token; write one on each line.")
    return wanted


def _pairs(lines: Sequence[str], *, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if number == 1 or not line:
            continue
        left, blank, right = line.partition("\t")[0].partition(" ")
        if not (left and blank and right) or " " in right:
            raise DataError(
                f"{path}:{number}: must hold two entries of the vocabulary with a blank between "
                f"them, got {line[:60]!r}; take the first line ({MERGES} ...) out if the file "
                "holds words."
            )
        yield left, right


def merges_text(title: str, *, lines: Sequence[str]) -> str:
    """The content of a file of merges."""
    return "\n".join([f"{MERGES}: 0.2 {title}", *lines, ""])
