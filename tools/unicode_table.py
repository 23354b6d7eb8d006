# SPDX-License-Identifier: Apache-2.0
"""Write csrc/unicode_table.h, what words are made of: ``python tools/unicode_table.py``.

It takes Python's own ``unicodedata``, and so the Python that has the version of Unicode below:
words, and the hashes that are kept of them, must not change with the Python that runs.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

HEADER = Path(__file__).resolve().parents[1] / "csrc" / "unicode_table.h"
UNICODE = "14.0.0"
NUM_CODES = 0x110000
BETWEEN, PART, MARK, WHOLE = range(4)
"""Kinds: of no word; of a word; a mark, of the word before it; a word by itself."""
UNSPACED = (
    "CJK UNIFIED IDEOGRAPH-",
    "CJK COMPATIBILITY IDEOGRAPH-",
    "IDEOGRAPHIC ",
    "VERTICAL IDEOGRAPHIC ",
    *("HIRAGANA ", "HENTAIGANA ", "KATAKANA ", "KATAKANA-HIRAGANA "),
    *("THAI ", "LAO ", "KHMER ", "MYANMAR "),
)
"""How names of letters begin that are written without blanks between words."""
NO_CHARACTERS = ("Cn", "Co", "Cs")
LINE = 100


def simple_fold(char: str) -> str:
    """Simple case folding: what Python's full one gives where that is one character, else the small
    letter."""
    found = (char.casefold(), char.lower())
    return next((folded for folded in found if len(folded) == 1), char)


def image(char: str) -> str:
    """The character that stands for it in a word."""
    while True:
        plain = unicodedata.normalize("NFKC", char)
        folded = simple_fold(plain if len(plain) == 1 else char)
        if folded == char:
            return char
        char = folded


def kind(char: str) -> int:
    """Of a character that is its own image."""
    category = unicodedata.category(char)
    if category[0] not in "LMN":
        return BETWEEN
    if category[0] == "M":
        return MARK
    is_unspaced = category[0] == "L" and unicodedata.name(char, "").startswith(UNSPACED)
    return WHOLE if is_unspaced else PART


def entries() -> Iterator[tuple[int, int]]:
    """Of every code point the kind and how far its image is; of what is of no word 0 and 0."""
    for code in range(NUM_CODES):
        if unicodedata.category(chr(code)) in NO_CHARACTERS:
            yield BETWEEN, 0
            continue
        char = image(chr(code))
        found = kind(char)
        yield found, ord(char) - code if found else 0


def runs() -> Iterator[tuple[int, int, int, int]]:
    """First code point, step, kind, distance. With step 2 every second one has the distance, and
    the others, of the same kind, have none: capital and small letters in turn."""
    of = list(entries())
    at = 0
    while at < NUM_CODES:
        start, (found, distance) = at, of[at]
        own = [(found, distance), (found, 0)]
        step = 2 if distance == 1 and of[at + 1 : at + 4] == [own[1], own[0], own[1]] else 1
        while at < NUM_CODES and of[at] == own[(at - start) % step]:
            at += 1
        yield start, step, found, distance


def header() -> str:
    """The text of csrc/unicode_table.h."""
    if unicodedata.unidata_version != UNICODE:
        raise SystemExit(
            f"Python {sys.version.split()[0]} has Unicode {unicodedata.unidata_version}; use one "
            f"with {UNICODE}, as Python 3.11 has it."
        )
    found = [*runs(), (NUM_CODES, 1, BETWEEN, 0)]
    numbers = []
    for (start, step, of, distance), (stop, *_) in pairwise(found):
        numbers += [stop - start, (step - 1) << 2 | of, distance]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            "// Written by tools/unicode_table.py; not to be edited.",
            "#pragma once",
            "",
            "#include <cstdint>",
            "",
            "namespace megacpt {",
            "",
            f'constexpr char kUnicodeVersion[] = "{UNICODE}";',
            "",
            "// From code point 0 on, runs of three numbers: how many code points; their kind (0",
            "// of no word, 1 of a word, 2 a mark, 3 a word by itself), and 4 more where every",
            "// second one is its own image; how far the images of the others are.",
            "constexpr std::int32_t kUnicodeRuns[] = {",
            *wrapped(numbers),
            "};",
            "",
            "}  // namespace megacpt",
            "",
        ]
    )


def wrapped(numbers: list[int]) -> Iterator[str]:
    line = "   "
    for number in numbers:
        word = f" {number},"
        if len(line) + len(word) > LINE:
            yield line
            line = "   "
        line += word
    yield line


if __name__ == "__main__":
    HEADER.write_text(header(), encoding="utf-8")
    print(f"Wrote {HEADER}")
