# SPDX-License-Identifier: Apache-2.0
"""Spans of a text that are not learned: put together, read, and refused where they are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.corpus.not_learned import FIELD, NOT_LEARNED, spans_in, spans_of, united
from megacpt.errors import DataError

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda s: tuple(sorted(s))))


@given(SPANS)
def test_spans_are_united_as_sets_of_places(spans: list[tuple[int, int]]) -> None:
    found = united(spans)
    places = [set(range(*span)) for span in found]
    assert set().union(*places) == {n for span in spans for n in range(*span)}
    bounds = [bound for span in found for bound in span]
    assert bounds == sorted(bounds)
    assert united(found) == found


@pytest.mark.parametrize(
    "given",
    [[[1, 5], [3, 7]], [[0, 13]], [[-1, 2]], [[4, 2]], [[1.0, 2]], [[True, 2]], [3], "ab", 5],
)
def test_what_is_no_span_of_the_text_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="of a text of 12 characters must be pairs of places"):
        spans_of({NOT_LEARNED: given}, text="a dozen here")


def test_a_line_that_speaks_of_the_field_has_none() -> None:
    text = f'say "{NOT_LEARNED}":[[0,3]] and see'
    for line in (json.dumps({"text": text}), json.dumps({"text": text}, separators=(",", ":"))):
        assert FIELD not in line.encode()
        assert spans_in(line.encode(), text=text) == []


def test_lines_of_the_standard_library_and_of_arrow() -> None:
    line = rb'{"text":"abc","other":"\udfff","megacpt_not_learned":[[0,2]]}'
    assert spans_in(line, text="abc") == [(0, 2)]
    assert spans_in(b'{"text":"abc","megacpt_not_learned":null}', text="abc") == []
