# SPDX-License-Identifier: Apache-2.0
"""However a text is cut into pieces, what is passed on is the text up to the first stop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.serve.text import Detokenizer, StopScanner

LETTERS = st.text("ab\n", max_size=30)


@given(
    text=LETTERS,
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_text_ends_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    scanner = StopScanner(stops)
    passed = ""
    for start, end in itertools.pairwise(places):
        passed += scanner.put(text[start:end])
        assert not any(stop in passed for stop in stops)
        if scanner.stopped:
            break
    passed += "" if scanner.stopped else scanner.flush()
    ends = [text.index(stop) for stop in stops if stop in text]
    # A stop text is looked for at every piece: one that ends later can begin earlier.
    complete = [text.index(stop) + len(stop) for stop in stops if stop in text]
    assert scanner.stopped == bool(ends)
    if not ends:
        assert passed == text
    else:
        assert text.startswith(passed)
        assert min(ends) <= len(passed) <= max(complete)


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


@given(text=st.text(max_size=20), before=st.text("abc", max_size=9))
def test_characters_come_whole(text: str, before: str) -> None:
    """Tokens are bytes here, so that most characters take several."""
    tokens = Detokenizer(decode_bytes, prompt_ids=list(before.encode()))
    pieces = [tokens.put(byte) for byte in text.encode()]
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + tokens.flush() == text


def test_bytes_that_are_no_character_are_told_at_the_end() -> None:
    tokens = Detokenizer(decode_bytes, prompt_ids=[65])
    assert [tokens.put(byte) for byte in b"B\xe2\x82"] == ["B", "", ""]
    assert tokens.flush() == "\ufffd"


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_a_real_tokenizer_gives_its_text(smollm2: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    head, ids = tokenizer.encode("Once:"), tokenizer.encode(text)
    whole = tokenizer.decode(head + ids)
    tokens = Detokenizer(tokenizer.decode, prompt_ids=head)
    told = "".join(tokens.put(token) for token in ids) + tokens.flush()
    assert "Once:" + told == whole
