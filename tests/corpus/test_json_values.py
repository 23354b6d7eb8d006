# SPDX-License-Identifier: Apache-2.0
"""The values of an array are those that json.loads finds, however the stream is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.corpus.json_values import values
from megacpt.errors import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def lines(content: bytes, *, cut: int = 7, limit: int = 1 << 20) -> list[bytes]:
    chunks = (content[n : n + cut] for n in range(0, len(content), cut))
    return [value.content for value in values(chunks, path="a.json", limit=limit)]


@given(
    array=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    ascii=st.booleans(),
    cut=st.integers(1, 30),
)
@settings(max_examples=40)
def test_all_values_come_back(array: list[Any], indent: int | None, ascii: bool, cut: int) -> None:
    content = json.dumps(array, indent=indent, ensure_ascii=ascii).encode()
    for before in (b"", b"\xef\xbb\xbf", b" \n"):
        found = lines(before + content + b"\n", cut=max(cut, len(before)))
        assert [json.loads(line) for line in found] == array
        assert not any(b"\n" in line for line in found)


@pytest.mark.parametrize(
    "text",
    ['quote " in it', "backslash \\", '\\\\"', "brackets ]}[{,", "line\nbreak", "\x7f\u2028"],
)
def test_marks_within_strings_are_no_structure(text: str) -> None:
    array = [{"text": text}, {text: [text]}]
    for cut in range(1, 12):
        assert [json.loads(line) for line in lines(json.dumps(array).encode(), cut=cut)] == array


def test_what_is_no_array_is_one_value() -> None:
    content = json.dumps({"data": [{"text": "a"}, {"text": "b"}]}, indent=1).encode()
    (line,) = lines(content)
    assert json.loads(line) == json.loads(content)
    assert lines(b"") == lines(b" \n") == lines(b"[]") == lines(b" [ ] \n") == []


def test_of_a_value_over_the_limit_the_beginning_is_kept() -> None:
    content = json.dumps(["a", "b" * 100, "c"]).encode()
    found = list(values(iter([content[:9], content[9:]]), path="a.json", limit=20))
    assert [len(value.content) <= 21 for value in found] == [True, True, True]
    assert [value.num_bytes > 20 for value in found] == [False, True, False]


@pytest.mark.parametrize("content", [b'[{"text": "a"}', b'[{"text": "a', b"[", b'["a\\'])
def test_an_array_that_ends_early_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"a.json ends within its JSON array"):
        lines(content)


@pytest.mark.parametrize("content", [b"[1] [2]", b'["a"]\n{"text": "b"}\n', b"[]]"])
def test_what_follows_an_array_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"a.json goes on after its JSON array"):
        lines(content)
