# SPDX-License-Identifier: Apache-2.0
"""Documents that are read again as lines are the documents that were parsed."""

from __future__ import annotations

import json

import pytest

from megacpt.corpus.documents import Passage
from megacpt.curate.documents import Document, lines_of, read_documents

LINES = [
    json.dumps({"id": "a", "text": "plain"}).encode(),
    json.dumps({"text": "\u00e9 \n", "id": 7, "more": [1, {"x": None}]}).encode(),
    b'{ "id" : "b" ,  "text":"spaces stay" }',
    json.dumps({"id": "c", "text": "日本"}, ensure_ascii=False).encode(),
]


def passage(content: bytes) -> Passage:
    return Passage(
        extent=0, first_line=1, num_lines=len(LINES), content=content, bytes_read=len(content)
    )


def about(document: Document) -> tuple[object, ...]:
    return document.id, document.text, document.num_bytes, document.fields, document.json_line()


def test_lines_are_the_documents_that_were_parsed() -> None:
    content = b"\n".join([*LINES, b""])
    parsed, _ = read_documents(passage(content), key="text", limit=1 << 20)
    assert all(document.is_as_written for document in parsed)
    assert [*map(about, lines_of(passage(content)))] == [*map(about, parsed)]
    assert [document.json_line() for document in parsed] == LINES


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"text": "no id"}', "text"),
        (b'{"text": "null", "id": null}', "text"),
        (b'{"body": "another key", "id": "a"}', "body"),
        (b'{"id": "a", "text": "a blank behind"} ', "text"),
        (b'{"id": "a", "text": "no number", "more": NaN}', "text"),
    ],
)
def test_what_is_written_in_another_way_is_not_as_written(line: bytes, key: str) -> None:
    (document,), _ = read_documents(passage(line + b"\n"), key=key, limit=1 << 20)
    assert not document.is_as_written
    assert document.json_line() != line


def test_a_line_is_parsed_when_it_is_asked_for() -> None:
    broken = Document(line=b"not parsed")
    assert broken.json_line() == b"not parsed"
    with pytest.raises(ValueError, match="expected"):
        _ = broken.text


def test_bytes_are_those_of_utf8() -> None:
    for line in LINES:
        document = Document(json.loads(line))
        assert document.num_bytes == len(document.text.encode("utf-8", "surrogatepass"))
