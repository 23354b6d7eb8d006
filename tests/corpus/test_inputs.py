# SPDX-License-Identifier: Apache-2.0
"""Files, folders and patterns become one list of files, in order, each with its kind."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from megacpt.corpus.formats import FileFormat
from megacpt.corpus.inputs import find_files
from megacpt.errors import DataError


def find(
    *names: Path | str, file_format: FileFormat | None = None, told: list[str] | None = None
) -> list[tuple[str, str]]:
    notice = [].append if told is None else told.append
    files = find_files(names, file_format=file_format, spool=Path("unused"), notice=notice)
    return [(Path(file.path).name, file.format.value) for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("b.jsonl", "a.jsonl.gz", "c/d.parquet", "c/e.txt", "c/f.jsonl.zst", "g.ndjson"),
        *("README.md", "x.pdf", ".hidden/h.jsonl", ".i.jsonl", "notes.md"),
        *("old.quarantine.jsonl", "old.pieces/pipe-1.jsonl", "old.json", "old.idx", "old.bin"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    return tmp_path


def test_a_folder_gives_the_files_whose_ending_tells_their_kind(folder: Path) -> None:
    told: list[str] = []
    assert find(folder, told=told) == [
        ("a.jsonl.gz", "jsonl"),
        ("b.jsonl", "jsonl"),
        ("d.parquet", "parquet"),
        ("e.txt", "text"),
        ("f.jsonl.zst", "jsonl"),
        ("g.ndjson", "jsonl"),
        ("notes.md", "text"),
    ]
    (line,) = told
    assert line.startswith(f"{folder}: 7 files taken; left out: ")
    for reason in (
        "2 hidden: .hidden, .i.jsonl",
        "1 work folders of a tokenization: old.pieces",
        "1 about the rest; name it to take it: README.md",
        "1 lines that were set aside: old.quarantine.jsonl",
        "3 files of a token shard: ",
        "1 *.pdf (pdftotext makes text of it): x.pdf",
    ):
        assert reason in line


def test_what_find_lists_is_taken_whatever_the_case_and_links(tmp_path: Path) -> None:
    data = tmp_path / "in"
    for name, content in {
        "in/a.jsonl": b"{}",
        "in/b.json.gz": gzip.compress(b'{"text": "two"}\n'),
        "in/C.JSONL": b"{}",
        "in/D.Parquet": b"",
        "other/e.TXT": b"e",
        "other/deep/f.Csv": b"text\n",
        "other/deep/g.JSONL.GZ": gzip.compress(b"{}"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (data / "sub").symlink_to("../other")
    (data / "again").symlink_to("../other")
    (tmp_path / "other" / "loop").symlink_to("..")
    (data / "h.jsonl").symlink_to("../other/e.TXT")
    found = subprocess.run(["find", "-L", data, "-type", "f"], capture_output=True, text=True)
    listed = {Path(line).resolve() for line in found.stdout.splitlines()}
    told: list[str] = []
    files = find_files([data], file_format=None, spool=tmp_path, notice=told.append)
    assert {Path(file.path).resolve() for file in files} == listed
    assert len(files) == len(listed) + 1  # h.jsonl is another name of e.TXT
    assert "links to folders that are here already" in told[0]


def test_a_folder_of_links_that_lead_nowhere_and_of_pipes_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("gone.jsonl")
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match=r"1 links that lead nowhere: a.jsonl; 1 neither file nor"):
        find(tmp_path)


def test_a_format_that_is_given_holds_for_all_files(folder: Path) -> None:
    found = find(folder / "c", file_format=FileFormat.text)
    assert found == [("d.parquet", "text"), ("e.txt", "text"), ("f.jsonl.zst", "text")]
    assert ("x.pdf", "jsonl") in find(folder, file_format=FileFormat.jsonl)


def test_named_files_are_taken_whatever_their_ending(folder: Path) -> None:
    named = find(folder / "README.md", folder / "old.idx", folder / ".i.jsonl")
    assert named == [("README.md", "text"), ("old.idx", "jsonl"), (".i.jsonl", "jsonl")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"text": "a"}]', FileFormat.json),
        (b'\xef\xbb\xbf \n [\n{"text": "a"}\n]', FileFormat.json),
        (b'{"text": "a"}\n{"text": "b"}\n', FileFormat.jsonl),
        (b'{"text": "a"}', FileFormat.jsonl),
        (b'{"n": ' + b"1" * 5000 + b', "text": "a"}\n', FileFormat.jsonl),
        (b'{\n  "text": "a"\n}\n', FileFormat.json),
        (b'{"text": "' + b"a" * (1 << 21) + b'"}\n', FileFormat.jsonl),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "A.JSON.gz"])
def test_a_json_file_holds_lines_or_one_value(
    tmp_path: Path, name: str, content: bytes, expected: FileFormat
) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert find(tmp_path / name) == [(name, expected.value)]
    assert find(tmp_path) == [(name, expected.value)]


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        *[("a.html", "trafilatura"), ("B.PDF", "pdftotext"), ("c.docx", "pandoc")],
        *[("d.epub", "pandoc"), ("e.xml", "pandoc"), ("f.tar.gz", "tar -xf"), ("g.zip", "7z x")],
        *[("h.parquet.gz", "unpack it"), ("i.feather", "pyarrow"), ("j.jsonl.lz4", "lz4 -d")],
    ],
)
def test_what_is_not_read_is_named_with_the_tool_that_converts_it(
    tmp_path: Path, name: str, tool: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(DataError, match=rf"{name} is of a kind that is not read here; .*{tool}"):
        find(tmp_path / name)
    with pytest.raises(DataError, match=rf"left out: 1 .*{tool}.*: {name}; name the files, or"):
        find(tmp_path)
    assert find(tmp_path / name, file_format=FileFormat.text) == [(name, "text")]


def test_patterns_are_sorted_and_stand_where_they_are_named(folder: Path) -> None:
    found = find(folder / "g.ndjson", str(folder / "?.jsonl*"), str(folder / "**" / "*.txt"))
    assert [name for name, _ in found] == ["g.ndjson", "a.jsonl.gz", "b.jsonl", "e.txt"]
    told: list[str] = []
    assert find(str(folder / "[bc]*"), told=told) == [("b.jsonl", "jsonl")]
    assert told == [f"{folder}/[bc]*: 1 file taken; left out: 1 folders: c."]


def test_a_name_with_brackets_is_first_of_all_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text("content")
    assert find(tmp_path / "a[1].jsonl") == [("a[1].jsonl", "jsonl")]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input .*gone.jsonl does not exist; give files \("):
        find(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"input .*\*.jsonl matches no file; check the pattern"):
        find(str(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=r"holds no file that ends with .jsonl, .ndjson"):
        find(tmp_path)
    with pytest.raises(DataError, match=r"the corpus is empty \(no files\)"):
        find()
