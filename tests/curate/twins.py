# SPDX-License-Identifier: Apache-2.0
"""Words, shingles, MinHash and Jaccard once more, from their rules: ``unicodedata`` and Python's
integers instead of tables and registers, NumPy for many permutations."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = (1 << 64) - 1
GOLDEN, ROW_BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
WITHOUT_BLANKS = {
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "HENTAIGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    *("THAI", "LAO", "KHMER", "MYANMAR"),
}
"""First words of the names of letters that are words by themselves."""


def stands_for(char: str) -> str:
    """NFKC and simple case folding, each where it gives one character, until nothing changes."""
    compatible = unicodedata.normalize("NFKC", char)
    after = compatible if len(compatible) == 1 else char
    folded = after.casefold()
    if len(folded) != 1:
        folded = after.lower() if len(after.lower()) == 1 else after
    return char if folded == char else stands_for(folded)


def is_word(letter: str) -> bool:
    """By itself: of a script without blanks between words."""
    name = unicodedata.name(letter, "").removeprefix("VERTICAL ")
    return name.split(" ")[0] in WITHOUT_BLANKS


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start: int
    stop: int


def words(text: str) -> list[Word]:
    """With the places where they stand."""
    found: list[Word] = []
    open_ = ""
    for place, own in enumerate(text):
        char = stands_for(own)
        major = unicodedata.category(char)[0]
        if major not in "LMN":
            open_ = ""
            continue
        kind = "whole" if major == "L" and is_word(char) else "run"
        if open_ and (major == "M" or kind == open_ == "run"):
            last = found[-1]
            found[-1] = Word(last.text + char, last.start, place + 1)
        else:
            found.append(Word(char, place, place + 1))
            open_ = kind
    return found


def normalised(text: str) -> str:
    return " ".join(word.text for word in words(text))


def mixed(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return x ^ x >> 31


def joined(numbers: Sequence[int], *, start: int = 0) -> int:
    for number in numbers:
        start = (start ^ number) * GOLDEN & U64
        start ^= start >> 32
    return start


def word_hash(word: str) -> int:
    content = word.encode()
    return joined(
        [int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 8)]
    )


def row_hash(row: Sequence[str]) -> int:
    highest = len(row) - 1
    terms = (word_hash(word) * pow(ROW_BASE, highest - n, 1 << 64) for n, word in enumerate(row))
    return mixed(sum(terms) & U64)


def rows(text: str, *, length: int) -> Iterator[tuple[str, ...]]:
    """Every ``length`` words in a row; all words of a text that has fewer."""
    found = [word.text for word in words(text)]
    if found and len(found) < length:
        yield tuple(found)
    for at in range(len(found) - length + 1):
        yield tuple(found[at : at + length])


def shingles(text: str, *, length: int) -> npt.NDArray[np.uint32]:
    hashes = {row_hash(row) >> 32 for row in rows(text, length=length)}
    return np.array(sorted(hashes), dtype=np.uint32)


def jaccard(text: str, other: str, *, length: int) -> float:
    """Of the words themselves, not of their hashes."""
    a, b = set(rows(text, length=length)), set(rows(other, length=length))
    return len(a & b) / len(a | b) if a | b else 0.0


def bands(
    hashes: npt.NDArray[np.uint32], *, bands: int, rows: int, seed: int
) -> npt.NDArray[np.uint64]:
    drawn = [mixed(seed + n * GOLDEN & U64) for n in range(1, bands * rows + 1)]
    factors = np.array([number & 0xFFFFFFFF | 1 for number in drawn], dtype=np.uint64)
    terms = np.array([number >> 32 for number in drawn], dtype=np.uint64)
    images = factors[:, None] * hashes[None, :].astype(np.uint64) + terms[:, None]
    smallest = (images & np.uint64(0xFFFFFFFF)).min(axis=1, initial=0xFFFFFFFF)
    values = smallest.reshape(bands, rows).tolist()
    return np.array(
        [mixed(joined(band, start=n)) for n, band in enumerate(values)], dtype=np.uint64
    )
