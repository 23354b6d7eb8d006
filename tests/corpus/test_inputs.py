# SPDX-License-Identifier: Apache-2.0
"""Files, folders and patterns become one list of files, in order, each with its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.corpus.inputs import FileFormat, find_files
from megacpt.errors import DataError


def find(*names: Path | str, file_format: FileFormat | None = None) -> list[tuple[str, str]]:
    files = find_files(names, file_format=file_format, spool=Path("unused"))
    return [(Path(file.path).name, file.format.value) for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("b.jsonl", "a.jsonl.gz", "c/d.parquet", "c/e.txt", "c/f.jsonl.zst", "g.ndjson"),
        *("README.md", "x.json", ".hidden/h.jsonl", ".i.jsonl"),
        *("old.quarantine.jsonl", "old.pieces/pipe-1.jsonl"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    return tmp_path


def test_a_folder_gives_the_files_whose_ending_tells_their_kind(folder: Path) -> None:
    assert find(folder) == [
        ("a.jsonl.gz", "jsonl"),
        ("b.jsonl", "jsonl"),
        ("d.parquet", "parquet"),
        ("e.txt", "text"),
        ("f.jsonl.zst", "jsonl"),
        ("g.ndjson", "jsonl"),
    ]


def test_a_format_that_is_given_holds_for_all_files(folder: Path) -> None:
    found = find(folder / "c", file_format=FileFormat.text)
    assert found == [("d.parquet", "text"), ("e.txt", "text"), ("f.jsonl.zst", "text")]
    assert ("x.json", "jsonl") in find(folder, file_format=FileFormat.jsonl)


def test_named_files_are_taken_whatever_their_ending(folder: Path) -> None:
    named = find(folder / "README.md", folder / "x.json", folder / ".i.jsonl")
    assert named == [("README.md", "text"), ("x.json", "jsonl"), (".i.jsonl", "jsonl")]


def test_patterns_are_sorted_and_stand_where_they_are_named(folder: Path) -> None:
    found = find(folder / "g.ndjson", str(folder / "?.jsonl*"), str(folder / "**" / "*.txt"))
    assert [name for name, _ in found] == ["g.ndjson", "a.jsonl.gz", "b.jsonl", "e.txt"]


def test_a_name_with_brackets_is_first_of_all_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text("content")
    assert find(tmp_path / "a[1].jsonl") == [("a[1].jsonl", "jsonl")]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input .*gone.jsonl does not exist; give files \("):
        find(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"input .*\*.jsonl matches no file; check the pattern"):
        find(str(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=r"holds no file that ends with .jsonl, .ndjson, .parquet"):
        find(tmp_path)
    with pytest.raises(DataError, match=r"the corpus is empty \(no files\)"):
        find()
