# SPDX-License-Identifier: Apache-2.0
"""Documents of files of all kinds, with their ids and all else their lines and rows say of them."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from megacpt.corpus.documents import Passage
from megacpt.curate import pipeline
from megacpt.curate.config import read_config
from megacpt.curate.documents import Document, lines_of, read_documents
from megacpt.errors import DataError

ROWS = [
    {
        "id": f"u{n}",
        "text": f"Text {n}: naïve 日本\n\nEnd.",
        "url": f"https://x/{n}",
        "score": n / 4,
    }
    for n in range(50)
]


def curate(folder: Path, source: Path, *words: str, output: str = "out") -> Path:
    """``raw_pairs=allow`` leaves texts as they are."""
    settings = [f"output={folder / output}", f"sources.a.files={source}", "form=jsonl"]
    words = (*settings, "rewrite.raw_pairs=allow", *words)
    pipeline.curate(read_config(None, overrides=words))
    return folder / output / "a"


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.open()]


def test_rows_of_tables_keep_their_ids_and_columns(tmp_path: Path) -> None:
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=20)
    assert read(curate(tmp_path, tmp_path / "a.parquet")) == ROWS
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    found = read(curate(tmp_path, tmp_path / "a.csv", output="csv"))
    assert found == [row | {"score": str(row["score"])} for row in ROWS]


def test_parts_in_parquet_are_read_again_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    first = curate(tmp_path, path, "form=parquet", output="first")
    again = curate(tmp_path, first, "form=parquet", output="again")
    assert [p.read_bytes() for p in again.iterdir()] == [p.read_bytes() for p in first.iterdir()]
    assert read(curate(tmp_path, again)) == ROWS


def test_values_that_json_lacks(tmp_path: Path) -> None:
    values = {
        "text": "Words.",
        "day": datetime.date(2026, 2, 1),
        "price": decimal.Decimal("12345678901234567890.12"),
        "picture": b"\x89PNG\xff",
        "raw": b"text",
        "no": None,
    }
    parquet.write_table(arrow.Table.from_pylist([values]), tmp_path / "a.parquet")
    (found,) = read(curate(tmp_path, tmp_path / "a.parquet"))
    assert found.pop("id")
    assert found == {
        "text": "Words.",
        "day": "2026-02-01",
        "price": "12345678901234567890.12",
        "picture": None,
        "raw": "text",
        "no": None,
    }


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_fields_that_no_utf_8_can_hold_stay(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Words.", "title": "\\ud83d", "big": 123456789012345678901}\n')
    folder = curate(tmp_path, path, f"form={form}")
    if form == "parquet":
        folder = curate(tmp_path, folder, output="again")
    (found,) = read(folder)
    assert (found["title"], found["big"]) == ("\ud83d", 123456789012345678901)


def broken(text: bytes) -> arrow.Table:
    """Of three rows, the second one's string is these bytes."""
    strings = arrow.array([b"one", text, b"three"]).view(arrow.utf8())
    return arrow.table({"text": strings, "n": [1, 2, 3]})


def test_broken_utf_8_in_parquet_is_a_bad_line(tmp_path: Path) -> None:
    parquet.write_table(broken(b"tw\xff"), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet:2: is not UTF-8"):
        curate(tmp_path, tmp_path / "a.parquet")
    found = read(curate(tmp_path, tmp_path / "a.parquet", "on_error=skip"))
    assert [(d["text"], d["n"]) for d in found] == [("one", 1), ("three", 3)]


def test_texts_that_look_like_json_are_texts(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for n, text in enumerate(['{"text": "no"}', "{\\rm Words.}", "[1]"]):
        (tmp_path / "texts" / f"{n}.txt").write_text(text)
    found = read(curate(tmp_path, tmp_path / "texts"))
    assert [d["text"] for d in found] == ['{"text": "no"}', "{\\rm Words.}", "[1]"]


def test_a_key_of_another_name(tmp_path: Path) -> None:
    rows = [{"body": row["text"], "n": 1} for row in ROWS]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read(curate(tmp_path, tmp_path / "a.parquet", "sources.a.key=body"))
    assert [(d["text"], d["n"]) for d in found] == [(row["text"], 1) for row in ROWS]
    with pytest.raises(DataError, match=r"a.parquet:1: has no key 'text'; its keys are: body, n"):
        curate(tmp_path, tmp_path / "a.parquet", output="other")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = arrow.Table.from_arrays([arrow.array(["a"])] * 3, names=["text", "b", "b"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has 2 columns named 'b'"):
        curate(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,b,b\n1,2,3\n")
    with pytest.raises(DataError, match="has 2 columns named 'b'"):
        curate(tmp_path, tmp_path / "a.csv", output="other")


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
