# SPDX-License-Identifier: Apache-2.0
"""Records are those of the library csv; what it would swallow or make up is a bad line."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.corpus.documents import BadLine
from megacpt.corpus.table import records
from megacpt.errors import DataError

# Python before 3.13 writes a lone carriage return without quotes.
FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)


def read(content: bytes, *, kind: str = "csv", limit: int = 1 << 20) -> list[tuple[int, Any]]:
    stream = io.BytesIO(content)
    found = records(stream, path="a.csv", kind=kind, key="text", limit=limit)
    return [
        (r.line, (r.value.kind.value, r.value.content) if isinstance(r.value, BadLine) else r.value)
        for r in found
    ]


@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=8), tabs=st.booleans(), unix=st.booleans())
@settings(max_examples=40)
def test_what_the_library_wrote_comes_back(
    rows: list[tuple[str, str]], tabs: bool, unix: bool
) -> None:
    kind = "tsv" if tabs else "csv"
    written = io.StringIO(newline="")
    ends = {"delimiter": "\t" if tabs else ",", "lineterminator": "\n" if unix else "\r\n"}
    csv.writer(written, **ends).writerows([("id", "text"), *rows])
    for mark in (b"", b"\xef\xbb\xbf"):
        found = read(mark + written.getvalue().encode(), kind=kind)
        assert [value for _, value in found] == [text.encode() for _, text in rows]


def test_lines_are_those_of_the_file() -> None:
    content = b'id,text\n1,"two\nlines"\n\n2,a\n3,"x, y"\n4,"say ""hi"""\n'
    assert read(content) == [(2, b"two\nlines"), (5, b"a"), (6, b"x, y"), (7, b'say "hi"')]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (b"1,a,b", "broken_record"),
        (b"1", "broken_record"),
        (b'1,"a"b', "broken_record"),
        (b'1,"' + b"x" * 300 + b'"', "oversized"),
    ],
)
def test_a_record_that_is_none_is_a_bad_line(row: bytes, kind: str) -> None:
    found = read(b"id,text\n0,fine\n" + row + b"\n9,too\n", limit=200)
    assert found[0] == (2, b"fine")
    assert found[1] == (3, (kind, row))
    assert found[2] == (4, b"too")


def test_a_quote_that_is_never_closed_swallows_nothing_in_silence() -> None:
    found = read(b'id,text\n0,fine\n1,"open\n2,lost\n')
    assert found[0] == (2, b"fine")
    assert found[1] == (3, ("broken_record", b'1,"open\n2,lost'))
    assert len(list(csv.reader(["id,text", '1,"open', "2,lost"]))) == 2  # Which is what csv does.


def test_a_file_without_lines_holds_nothing() -> None:
    assert read(b"") == read(b"\xef\xbb\xbf") == read(b"\r\n\n") == read(b"text,id\n") == []


def test_bytes_that_are_no_utf8_are_handed_on() -> None:
    assert read(b"text\ncaf\xe9\n") == [(2, b"caf\xe9")]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"id,body\n", "has no column 'text'; its first line names the columns: id, body. Use"),
        (b"text,id,text\n", "has 2 columns named 'text'; give them names of their own"),
        (b'"text"x,id\n', "a.csv:1: is no record ("),
    ],
)
def test_columns_are_named_by_the_first_line(header: bytes, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(header + b"1,a\n")
    assert problem in str(caught.value)
