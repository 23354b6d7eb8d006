# SPDX-License-Identifier: Apache-2.0
"""Texts that a library cannot encode are told apart from those that it can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.tokenizer.backend import Encoded, EncodeError, encode_each, failure_told, join

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=3))


@given(rows=ROWS, gone=st.lists(st.integers(0, 3), max_size=3))
def test_without_a_row(rows: list[list[int]], gone: list[int]) -> None:
    left = join(rows).without(np.array(gone, dtype=np.int32))
    assert [row.tolist() for row in left.rows()] == [row for row in rows if row != gone]


class Strict:
    """Encodes as the lengths of texts, and none that is long."""

    name = "strict"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        self.calls += 1
        with failure_told(self.name):
            if any(len(text) > 3 for text in texts):
                raise ValueError("too long")
        return join([[len(text)] * (1 + special) for text in texts])


@given(texts=st.lists(st.text("a", max_size=5), max_size=20))
def test_each_text_has_its_ids_or_why_not(texts: list[str]) -> None:
    found = encode_each(texts, encoder=Strict(), special=True)
    for text, row in zip(texts, found, strict=True):
        if len(text) > 3:
            assert isinstance(row, EncodeError)
            assert str(row) == "strict: too long"
        else:
            assert not isinstance(row, EncodeError)
            assert row.tolist() == [len(text)] * 2


def test_one_failure_among_many_costs_few_calls() -> None:
    encoder = Strict()
    encode_each(["a"] * 500 + ["aaaa"] + ["a"] * 500, encoder=encoder, special=False)
    assert encoder.calls < 30


def test_a_panic_of_a_rust_library_is_a_failure_and_ctrl_c_is_not() -> None:
    error = type("PanicException", (BaseException,), {})("bad split")
    with pytest.raises(EncodeError, match="rust: bad split"), failure_told("rust"):
        raise error
    with pytest.raises(KeyboardInterrupt), failure_told("rust"):
        raise KeyboardInterrupt
