# SPDX-License-Identifier: Apache-2.0
"""Files of wanted tokens: words, merges, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.errors import DataError
from megacpt.vocabulary.wanted import merges_text, read_wanted


def test_words_are_taken_with_their_blanks_and_once(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff law\n law\r\n\n   \nat law\na\u2028b\n".encode())
    assert read_wanted(path).words == (" law", "at law", "a\u2028b")


def test_merges_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_text(merges_text("2 merges", lines=['Ġl aw\t" law"\t9', "Ġlaw s"]))
    assert read_wanted(path).merges == (("Ġl", "aw"), ("Ġlaw", "s"))
    assert read_wanted(path).words == ()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"f\.txt does not exist; write it"),
        (b"\xff\xfe", r"f\.txt cannot be read as UTF-8"),
        (b"\n  \n", r"f\.txt names no token"),
        (b"#version: 0.2\n", r"f\.txt names no token"),
        (b"#version: 0.2\na b\nabc\n", r"f\.txt:3: must hold two entries .* got 'abc'"),
        (b"#version: 0.2\na b c\n", r"f\.txt:2: must hold two entries .* got 'a b c'"),
    ],
)
def test_other_files_are_refused(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_wanted(path)
