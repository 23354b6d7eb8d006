# SPDX-License-Identifier: Apache-2.0
"""Blocks of whole lines, whatever the files; a broken line is named by file and number."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.data.jsonl import BLOCK_BYTES, Block, JsonlReader, parse_texts
from megacpt.errors import DataError


def block(content: bytes) -> Block:
    return Block(path="a.jsonl", first_line=7, content=content, bytes_read=0)


def texts_of(paths: list[Path]) -> list[str]:
    return [text for found in JsonlReader(paths) for text in parse_texts(found, key="text")]


def write(path: Path, texts: list[str]) -> Path:
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_every_text_comes_back(tmp_path: Path, name: str, texts: list[str]) -> None:
    assert texts_of([write(tmp_path / name, texts)]) == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_blocks_are_whole_lines_with_their_numbers(tmp_path: Path, name: str) -> None:
    length = BLOCK_BYTES // 3
    texts = [f"{n}" * length for n in range(9)]
    reader = JsonlReader([write(tmp_path / name, texts)])
    line = 1
    for found in reader:
        assert found.first_line == line
        assert found.content.endswith(b"\n")
        assert len(found.content) <= BLOCK_BYTES + length + 20
        line += found.content.count(b"\n")
    assert line == 10


def test_files_are_described_as_they_lie_on_the_disk(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jsonl", ["x"]), write(tmp_path / "b.jsonl.gz", ["y"] * 50)]
    reader = JsonlReader(paths)
    *_, last = reader
    assert last.bytes_read == reader.total_bytes == sum(path.stat().st_size for path in paths)
    for path, described in zip(paths, reader.files, strict=True):
        assert described.path == str(path)
        assert described.bytes == path.stat().st_size
        assert described.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_blank_lines_line_ends_and_a_missing_last_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "a"}\r\n  \n{"text": "b"}')
    assert texts_of([path]) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"a.jsonl:8: is not JSON \(.*\); mend or remove the line"),
        (b"[" * 200_000, r"a.jsonl:8: is not JSON"),
        (b'{"text": "\xff"}', r"a.jsonl:8: is not UTF-8"),
        (b"3", "a.jsonl:8: must hold a JSON object, got int"),
        (b"{}", "a.jsonl:8: has no key 'text'; its keys are: none. Use --key NAME"),
        (b'{"body": 1, "id": 2}', "has no key 'text'; its keys are: body, id"),
        (b'{"text": null}', "a.jsonl:8: holds no text under 'text'"),
        (b'{"text": "\\ud800"}', "a.jsonl:8: text is not Unicode"),
    ],
)
def test_a_broken_line_is_named(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_texts(block(b'{"text": "fine"}\n' + line + b"\n"), key="text")


@pytest.mark.parametrize("cut", [4, 30, -4])
def test_a_cut_gzip_file_is_named(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a.jsonl.gz", [f"{n}" for n in range(1000)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a.jsonl.gz is not a complete gzip file"):
        texts_of([path])


def test_a_file_that_is_no_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text('{"text": "a"}')
    with pytest.raises(DataError, match=r"a.jsonl.gz is not a complete gzip file \(Not a gzipped"):
        texts_of([path])


def test_inputs_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input .*gone.jsonl does not exist; give a JSONL file"):
        JsonlReader([tmp_path / "gone.jsonl"])
    with pytest.raises(DataError, match=r"is a folder; name the .jsonl or .jsonl.gz files in it"):
        JsonlReader([tmp_path])


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["a"])
    reader = JsonlReader([path])
    path.unlink()
    with pytest.raises(DataError, match=r"a.jsonl cannot be read: No such file"):
        list(reader)
