# SPDX-License-Identifier: Apache-2.0
"""Rows hold every text whole, wherever its tokens lie, and what is shared once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.evaluate.benchmarks.rows import SHARED_MIN, SharedRow, padded_rows, shared_rows
from megacpt.evaluate.benchmarks.text import Text, continued

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=40)
TEXTS = st.lists(
    st.builds(
        lambda head, context, continuation: continued(
            [7] * head + context, continuation=continuation, max_length=70
        ),
        st.sampled_from([0, 20, 30]),
        TOKENS,
        st.lists(st.integers(0, 2), max_size=5),
    ),
    min_size=1,
    max_size=12,
)


def read(row: SharedRow, number: int) -> tuple[int, ...]:
    """A text of a row, along its path."""
    return tuple(token for start, stop in row.texts[number] for token in row.tokens_T[start:stop])


@given(texts=TEXTS, max_tokens=st.sampled_from([1, 50, 10_000]))
def test_every_text_is_whole_and_in_its_positions(texts: list[Text], max_tokens: int) -> None:
    rows = shared_rows(texts, max_tokens=max_tokens)
    found = {number: (row, read(row, number)) for row in rows for number in row.texts}
    assert {n: ids for n, (_, ids) in found.items()} == {
        n: text.inputs for n, text in enumerate(texts)
    }
    for number, (row, ids) in found.items():
        places = [p for start, stop in row.texts[number] for p in range(start, stop)]
        assert [row.positions_T[place] for place in places] == list(range(len(ids)))
        scored = [
            (place, label)
            for place, label, owner in zip(row.places_R, row.labels_R, row.owners_R, strict=True)
            if owner == number
        ]
        first = texts[number].first_scored
        assert scored == list(zip(places[first:], texts[number].labels, strict=True))


@given(texts=TEXTS)
def test_own_pieces_fill_the_row_in_order(texts: list[Text]) -> None:
    (row,) = shared_rows(texts, max_tokens=10**6)
    row.pad(len(row.tokens_T) + 3)
    own = [path[-1] for path in row.paths_N]
    assert [start for start, _ in own] == [0, *(stop for _, stop in own[:-1])]
    assert own[-1][1] == len(row.tokens_T)


def test_a_common_beginning_is_there_once() -> None:
    head = list(range(SHARED_MIN))
    texts = [continued([*head, n], continuation=[1], max_length=99) for n in range(5)]
    (row,) = shared_rows(texts, max_tokens=10**6)
    assert len(row.tokens_T) == SHARED_MIN + 5
    short = [continued([*head[1:], n], continuation=[1], max_length=99) for n in range(5)]
    (row,) = shared_rows(short, max_tokens=10**6)
    assert len(row.tokens_T) == 5 * SHARED_MIN


@given(texts=TEXTS, max_tokens=st.integers(1, 200))
def test_padded_batches_hold_each_text_once(texts: list[Text], max_tokens: int) -> None:
    batches = padded_rows(texts, max_tokens=max_tokens)
    assert sorted(n for batch in batches for n in batch) == list(range(len(texts)))
    for batch in batches:
        longest = max(len(texts[n].inputs) for n in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_tokens


def test_what_does_not_fit_is_cut_from_the_left() -> None:
    text = continued(range(10), continuation=[20, 21], max_length=4)
    assert text == Text(inputs=(7, 8, 9, 20), labels=(20, 21))
    assert continued([5], continuation=[], max_length=4) == Text(inputs=(5,), labels=())


def test_no_context_and_too_long_a_continuation_are_refused() -> None:
    from megacpt.errors import DataError

    with pytest.raises(DataError, match="after no token at all"):
        continued([], continuation=[1], max_length=4)
    with pytest.raises(DataError, match="5 tokens is longer than the 4"):
        continued([1], continuation=[1] * 5, max_length=4)
