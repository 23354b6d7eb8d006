# SPDX-License-Identifier: Apache-2.0
"""The fast way over JSON lines finds what the standard library finds, and says what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.corpus.documents import ErrorKind, Parsed, parse_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def parse(content: bytes, *, limit: int = 1 << 20) -> Parsed:
    return parse_lines(content, first_line=7, key="text", limit=limit)


@given(texts=st.lists(TEXT, max_size=20), ascii=st.booleans(), extra=st.booleans())
@settings(max_examples=60)
def test_every_text_comes_back(texts: list[str], ascii: bool, extra: bool) -> None:
    rows = [{"n": [1.5, None], "text": t} if extra else {"text": t} for t in texts]
    lines = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)
    assert parse(lines.encode()) == Parsed(texts=texts)


def test_blank_lines_line_ends_and_a_missing_last_one() -> None:
    content = b'\n{"text": "a"}\r\n  \n\r\n{"text": "b"}'
    assert parse(content) == Parsed(texts=["a", "b"])


def test_what_only_the_standard_library_takes() -> None:
    content = b'\xef\xbb\xbf{"text": "bom"}\n{"x": NaN, "text": "nan"}\n{"text": "fine"}\n'
    assert parse(content) == Parsed(texts=["bom", "nan", "fine"])


@pytest.mark.parametrize(
    ("line", "kind", "problem"),
    [
        (b"{", ErrorKind.broken_json, "is not JSON ("),
        (b'{"text": "a"},{"text": "b"}', ErrorKind.broken_json, "is not JSON ("),
        (b'{"text": [1', ErrorKind.broken_json, "is not JSON ("),
        (b"[" * 200_000, ErrorKind.broken_json, "is not JSON ("),
        (b'{"text": "\xff"}', ErrorKind.invalid_utf8, "is not UTF-8 ("),
        (b"3", ErrorKind.no_object, "must hold a JSON object, got a number"),
        (b'["text"]', ErrorKind.no_object, "must hold a JSON object, got an array"),
        (b'"text"', ErrorKind.no_object, "must hold a JSON object, got a string"),
        (b"{}", ErrorKind.no_key, "has no key 'text'; its keys are: none. Use --key NAME"),
        (b'{"body": 1, "id": 2}', ErrorKind.no_key, "its keys are: body, id"),
        (b'{"text": null}', ErrorKind.no_text, "holds no text under 'text' but null"),
        (b'{"text": {"a": 1}}', ErrorKind.no_text, "holds no text under 'text' but an object"),
        (b'{"text": 5}', ErrorKind.no_text, "holds no text under 'text' but a number"),
        (b'{"text": false}', ErrorKind.no_text, "holds no text under 'text' but true or false"),
        (b'{"text": ["a", null]}', ErrorKind.no_text, "under 'text' but a list with null"),
        (b'{"text": ["a", "\\udc00"]}', ErrorKind.invalid_unicode, "text is not Unicode ("),
        (b'{"text": "\\ud800"}', ErrorKind.invalid_unicode, "text is not Unicode ("),
        (b'{"text": "' + b"a" * 300_000 + b'"}', ErrorKind.oversized, "has 300012 bytes, but"),
    ],
)
def test_a_bad_line_is_kept_with_its_number(line: bytes, kind: ErrorKind, problem: str) -> None:
    parsed = parse(b'{"text": "fine"}\n' + line + b'\n\n{"text": "too"}\n', limit=250_000)
    assert parsed.texts == ["fine", "too"]
    assert [(bad.line, bad.kind, bad.content) for bad in parsed.bad] == [(8, kind, line)]
    assert problem in parsed.bad[0].problem


@pytest.mark.parametrize("other", ["9" * 5000, "-" + "1" * 70000, "[1" + "0" * 4301 + "]", "1e999"])
def test_numbers_of_any_size_stand_beside_a_text(other: str) -> None:
    assert parse(f'{{"n": {other}, "text": "a"}}\n'.encode()) == Parsed(texts=["a"])
    (bad,) = parse(f'{{"text": {other}}}\n'.encode()).bad
    assert bad.kind is ErrorKind.no_text


def test_a_list_of_texts_is_a_document_of_sentences() -> None:
    lines = b'{"text": ["a", "b"]}\n{"text": []}\n{"text": "c"}\n{"text": ["d"], "n": NaN}\n'
    assert parse(lines) == Parsed(texts=[("a", "b"), (), "c", ("d",)])


def test_two_halves_of_an_object_are_two_bad_lines() -> None:
    parsed = parse(b'{"text": ["a"\n, "b"]}\n{"text": "c"}{"text": "d"}\n')
    assert (parsed.texts, [bad.line for bad in parsed.bad]) == ([], [7, 8, 9])
