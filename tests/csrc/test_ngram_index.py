# SPDX-License-Identifier: Apache-2.0
"""Windows of words that are found in texts, against a search that compares them word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt._C import Hits, NgramIndex
from tests.csrc.test_words import texts as any_texts
from tests.curate.twins import words

Window = tuple[int, int, int]
few_words = st.lists(
    st.sampled_from(["a", "B,", "c.", "d", "é", "漢字", "—", "\n"]), max_size=20
).map(" ".join)


def rows_of(windows: list[Window]) -> npt.NDArray[np.int64]:
    return np.array(windows, dtype=np.int64).reshape(-1, 3)


def all_windows(texts: list[str], *, lengths: set[int]) -> list[Window]:
    return [
        (number, first, length)
        for number, text in enumerate(texts)
        for length in sorted(lengths)
        for first in range(len(words(text)) - length + 1)
    ]


def search(texts: list[str], *, items: list[str], windows: list[Window]) -> list[tuple[int, ...]]:
    """(document, first word, first window of the same words, start, stop), word by word."""
    found = []
    for document, text in enumerate(texts):
        own = words(text)
        for at in range(len(own)):
            seen = set()
            for row, (item, first, length) in enumerate(windows):
                wanted = [word.text for word in words(items[item])[first : first + length]]
                here = own[at : at + length]
                if [word.text for word in here] == wanted and length not in seen:
                    seen.add(length)
                    found.append((document, at, length, row, here[0].start, here[-1].stop))
    return [(d, at, row, start, stop) for d, at, _, row, start, stop in sorted(found)]


def tuples(hits: Hits) -> list[tuple[int, ...]]:
    columns = (hits.documents, hits.words, hits.windows, hits.starts, hits.stops)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(data=st.data(), lengths=st.sets(st.integers(1, 6), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_hits_are_those_of_a_search(data: st.DataObject, lengths: set[int]) -> None:
    some = few_words | any_texts.map(lambda text: text[:40])
    items = data.draw(st.lists(some, max_size=3))
    possible = all_windows(items, lengths=lengths)
    windows = data.draw(st.lists(st.sampled_from(possible), max_size=12)) if possible else []
    texts = data.draw(st.lists(few_words | st.sampled_from([*items, ""]), max_size=3))
    index = NgramIndex(items, windows=rows_of(windows))
    assert tuples(index.find(texts)) == search(texts, items=items, windows=windows)


def test_equal_windows_are_numbered_by_the_first() -> None:
    items = ["one two three", "ONE, two! four"]
    windows = [(1, 0, 2), (0, 0, 2), (0, 1, 2), (1, 1, 2), (0, 0, 2)]
    index = NgramIndex(items, windows=rows_of(windows))
    assert index.first_equal.tolist() == [0, 0, 2, 3, 0]
    assert tuples(index.find(["say: one\ttwo three"])) == [(0, 1, 0, 5, 12), (0, 2, 2, 9, 18)]


def test_spans_are_of_the_text_as_it_stands() -> None:
    text = "«Éa» — Straße, 漢字 🙂 the\n\n\tQUICK   brown-fox!"
    index = NgramIndex(["the quick brown fox", "字 the"], windows=rows_of([(0, 0, 4), (1, 0, 2)]))
    spans = [(hit[3], hit[4]) for hit in tuples(index.find([text]))]
    assert [text[start:stop] for start, stop in spans] == [
        "字 🙂 the",
        "the\n\n\tQUICK   brown-fox",
    ]


def test_all_of_many_windows_are_found_and_no_others() -> None:
    """Filter and table as they are filled with many: every window in its text, none in another."""
    rng = np.random.default_rng(0)
    items = [" ".join(map(str, rng.integers(0, 10**6, size=300).tolist())) for _ in range(20)]
    windows = all_windows(items, lengths={8, 13})
    index = NgramIndex(items, windows=rows_of(windows))
    np.testing.assert_array_equal(index.first_equal, np.arange(len(windows)))
    hits = index.find(items)
    np.testing.assert_array_equal(np.sort(hits.windows), np.arange(len(windows)))
    found = np.stack([hits.documents, hits.words], axis=1)
    np.testing.assert_array_equal(found, rows_of(windows)[hits.windows][:, :2])
    shuffled = [" ".join(rng.permutation(item.split(" "))) for item in items]
    assert index.find(shuffled).windows.size == 0


def test_nothing_is_found_of_nothing() -> None:
    empty = NgramIndex([], windows=rows_of([]))
    assert empty.first_equal.size == 0
    assert tuples(empty.find(["some text"])) == []
    assert tuples(NgramIndex(["a b"], windows=rows_of([(0, 0, 2)])).find([])) == []


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([[1, 0, 1]], "of text 1, which is not there"),
        ([[-1, 0, 1]], "of text -1, which is not there"),
        ([[0, 0, 0]], "must have a word or more"),
        ([[0, 0, -3]], "must have a word or more"),
        ([[0, 3, 1]], "beyond the 3 words of text 0"),
        ([[0, -1, 1]], "beyond the 3 words of text 0"),
        ([[0, 1, 3]], "beyond the 3 words of text 0"),
        ([[0, 0, 1], [0, 1, 2**63 - 1]], "beyond the 3 words of text 0"),
        ([0, 0, 1], "3 columns"),
        ([[0, 1]], "3 columns"),
    ],
)
def test_windows_that_cannot_be_are_refused(windows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NgramIndex(["one two three"], windows=np.array(windows, dtype=np.int64))


def test_windows_of_another_type_or_apart_are_refused() -> None:
    for windows in (np.zeros((1, 3), dtype=np.int32), np.zeros((1, 6), dtype=np.int64)[:, ::2]):
        with pytest.raises(ValueError, match="windows must be a contiguous array"):
            NgramIndex(["a"], windows=windows)  # type: ignore[arg-type]
