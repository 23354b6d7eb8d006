# SPDX-License-Identifier: Apache-2.0
"""Every line is in one extent, whatever the cut; checksums of whole files; broken files."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from megacpt.corpus import checksum, containers, reader
from megacpt.corpus.documents import Passage
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.inputs import find_files
from megacpt.corpus.pieces import Extent, cut
from megacpt.corpus.reader import ExtentReader, first_line
from megacpt.errors import DataError
from tests.corpus.cases import write_jsonl


def source(path: Path, **options: FileFormat) -> SourceFile:
    return find_files([path], file_format=options.get("file_format"), spool=path.parent)[0]


def read(
    file: SourceFile, extent: Extent | None = None, *, max_bytes: int = 1 << 30
) -> tuple[ExtentReader, list[Passage]]:
    whole = Extent(file=0, start=0, stop=file.bytes, bytes=file.bytes)
    made = ExtentReader(file, extent=extent or whole, number=0, key="text", max_bytes=max_bytes)
    return made, list(made)


def contents(passages: list[Passage]) -> bytes:
    return b"".join(b.content for b in passages if isinstance(b.content, bytes))


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    ends=st.booleans(),
    size=st.integers(1, 80),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_is_in_one_part(
    tmp_path: Path, lines: list[bytes], ends: bool, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * ends)
    assume(not path.read_bytes().startswith(tuple(containers.SIGNATURES)))
    file = source(path)
    found, line = b"", 1
    for (extent,) in cut([file], size=size):
        made, passages = read(file, extent)
        assert first_line(file, extent=extent) == line or made.num_lines == 0
        assert [b.first_line for b in passages] == sorted(b.first_line for b in passages)
        assert sum(b.bytes_read for b in passages) == extent.bytes
        found += contents(passages)
        line += made.num_lines
    assert found == path.read_bytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_blocks_are_bounded_and_whole_lines(tmp_path: Path, suffix: str) -> None:
    content = b"".join(b"%d" % n * (reader.PASSAGE_BYTES // 3) + b"\n" for n in range(9))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(content, suffix))
    made, passages = read(source(path))
    assert contents(passages) == content
    assert made.num_lines == 9
    for block in passages:
        assert len(contents([block])) <= 2 * reader.PASSAGE_BYTES
        assert contents([block])[-1:] in (b"\n", b"")
        assert block.num_lines == contents([block]).count(b"\n")
    assert made.leaves == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert sum(b.bytes_read for b in passages) == path.stat().st_size


def test_blocks_of_short_lines_end_with_the_last_that_fits(tmp_path: Path) -> None:
    content = b"".join(b"%d\n" % n for n in range(reader.PASSAGE_BYTES // 3))
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    made, passages = read(source(path))
    assert contents(passages) == content
    sizes = [len(contents([block])) for block in passages if block.content]
    assert len(sizes) == len(content) // reader.PASSAGE_BYTES + 1
    assert all(reader.PASSAGE_BYTES - 8 < size <= reader.PASSAGE_BYTES for size in sizes[:-1])
    assert made.leaves == [hashlib.sha256(content).hexdigest()]


def packed(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    return gzip.compress(content) if suffix == ".gz" else content


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_streams_one_after_another_are_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(b"1\n2\n", suffix) + packed(b"3\n", suffix))
    assert contents(read(source(path))[1]) == b"1\n2\n3\n"


@pytest.mark.parametrize(("suffix", "kind"), [(".gz", "gzip"), (".zst", "Zstandard")])
@pytest.mark.parametrize("damage", ["cut early", "cut late", "other content"])
def test_a_broken_compressed_file_is_named(
    tmp_path: Path, suffix: str, kind: str, damage: str
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    whole = packed(b"".join(b"%d\n" % n for n in range(5000)), suffix)
    damaged = {"cut early": whole[:9], "cut late": whole[:-3], "other content": b'{"text": 1}\n'}
    path.write_bytes(damaged[damage])
    with pytest.raises(DataError, match=rf"a.jsonl{suffix} is not a complete {kind} file \("):
        read(source(path))


def test_checksums_of_parts_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "LEAF_BYTES", 1 << 10)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"%d" % n * (n % 90) + b"\n" for n in range(300)))
    file = source(path)
    expected = read(file)[0].leaves
    assert len(expected) == -(-file.bytes // 1024)
    pieces = cut([file], size=1 << 12)
    assert [leaf for (extent,) in pieces for leaf in read(file, extent)[0].leaves] == expected
    digests = [hashlib.sha256(path.read_bytes()[n : n + 1024]) for n in range(0, file.bytes, 1024)]
    joined = b"".join(digest.digest() for digest in digests)
    assert checksum.root(expected) == hashlib.sha256(joined).hexdigest()


@pytest.mark.parametrize("last", [False, True])
def test_a_line_too_long_for_memory_is_dropped(tmp_path: Path, last: bool) -> None:
    long = b"x" * (5 * reader.PASSAGE_BYTES + 17)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n2\n" + long + (b"" if last else b"\n4\n"))
    made, passages = read(source(path), max_bytes=1 << 20)
    assert contents(passages) == (b"1\n2\n" if last else b"1\n2\n4\n")
    (bad,) = (bad for block in passages for bad in block.bad)
    assert (bad.line, made.num_lines) == (3, 3 if last else 4)
    assert f"has {len(long)} bytes, but documents may have 1048576" in bad.problem
    assert len(bad.content) == reader.HEAD_BYTES
    assert sum(b.bytes_read for b in passages) == path.stat().st_size


def test_a_text_file_is_one_value(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"two\nlines\n")
    assert [b.content for b in read(source(path))[1]] == [[b"two\nlines\n"]]
    made, passages = read(source(path), max_bytes=4)
    assert [b.content for b in passages] == [[b"two\nl"]]
    assert made.leaves == [hashlib.sha256(b"two\nlines\n").hexdigest()]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_rows_of_a_parquet_file_are_in_one_part_each(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {n}" for n in range(25)]
    table = pyarrow.table({"n": range(25), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    file = source(path)
    found: list[object] = []
    leaves = []
    for (extent,) in cut([file], size=size):
        assert first_line(file, extent=extent) == len(found) + 1
        made, passages = read(file, extent)
        found += [value for b in passages for value in b.content]
        leaves += made.leaves
        assert sum(b.bytes_read for b in passages) == extent.bytes
    assert found == [text.encode() for text in texts]
    assert leaves == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_broken_parquet_files_and_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing PAR1")
    with pytest.raises(DataError, match=r"a.parquet is not a complete Parquet file \("):
        cut([source(path)], size=100)
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), path)
    with pytest.raises(DataError, match=r"has no column 'text'; its columns are: body. Use --key"):
        read(source(path), cut([source(path)], size=100)[0][0])


def test_a_file_that_changes_or_goes_is_named(tmp_path: Path) -> None:
    file = source(write_jsonl(tmp_path / "a.jsonl", ["a"]))
    write_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    with pytest.raises(DataError, match=r"a.jsonl changed after the work on it began; leave"):
        read(file)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"a.jsonl cannot be read: No such file"):
        read(file)
