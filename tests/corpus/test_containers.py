# SPDX-License-Identifier: Apache-2.0
"""What is whole and not supported is told from what is damaged; the programs are the oracle."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from megacpt.corpus.inputs import find_files
from megacpt.corpus.pieces import Extent
from megacpt.corpus.reader import ExtentReader
from megacpt.errors import DataError

LINE = b'{"text": "A river."}\n'
ZSTD = shutil.which("zstd")


def read(path: Path) -> bytes:
    (file,) = find_files([path], file_format=None, spool=path.parent)
    extent = Extent(file=0, start=0, stop=file.bytes, bytes=file.bytes)
    reader = ExtentReader(file, extent=extent, number=0, key="text", max_bytes=1 << 20)
    return b"".join(p.content for p in reader if isinstance(p.content, bytes))


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        *[(".gz", gzip.compress), (".GZ", gzip.compress), (".bz2", bz2.compress)],
        *[(".xz", lzma.compress), (".zst", lambda b: pa.compress(b, codec="zstd", asbytes=True))],
    ],
)
def test_streams_are_unpacked_one_after_another(tmp_path: Path, ending: str, pack: object) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(pack(LINE) + pack(LINE))  # type: ignore[operator]
    assert read(path) == 2 * LINE
    path.write_bytes(pack(LINE * 99)[:-5])  # type: ignore[operator]
    with pytest.raises(DataError, match=r"is not a complete .* file \(|ends within"):
        read(path)


@pytest.mark.skipif(ZSTD is None, reason="needs the program zstd")
@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        (["--ultra", "-22", "--long=31"], "needs a window of over 128 MiB", "zstd -dc --long=31"),
        (["--long=28"], "needs a window of over 128 MiB", "zstd -dc --long=31"),
        (["-D", "dictionary"], "needs the dictionary it was compressed with", "-D DICTIONARY"),
        (["--long=27"], None, None),
        (["-19"], None, None),
    ],
)
@pytest.mark.parametrize("before", [b"", LINE])
def test_zstandard_that_is_not_supported_is_not_called_damaged(
    tmp_path: Path, options: list[str], problem: str | None, remedy: str | None, before: bytes
) -> None:
    samples = [f'{{"text": "River {n} of {n * n} lands and hills"}}\n' for n in range(999)]
    (tmp_path / "samples").write_text("".join(samples))
    assert ZSTD is not None
    trained = [ZSTD, "-q", "--train", "-B64", "--maxdict=4096", "samples", "-o", "dictionary"]
    subprocess.run(trained, cwd=tmp_path, check=True)

    def zstd(content: bytes, *words: str) -> bytes:
        # From a pipe: of a file whose size it knows zstd makes the window no larger than that.
        return subprocess.run(
            [ZSTD, "-qc", *words], input=content, cwd=tmp_path, stdout=subprocess.PIPE, check=True
        ).stdout

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes((zstd(before) if before else b"") + zstd(LINE, *options))
    if problem is None:
        assert read(path) == before + LINE
        return
    with pytest.raises(DataError) as caught:
        read(path)
    assert problem in str(caught.value)
    assert str(remedy) in str(caught.value)
    unpacked = [ZSTD, "-dc", *(options if "-D" in options else ["--long=31"]), str(path)]
    assert subprocess.run(unpacked, cwd=tmp_path, capture_output=True).stdout == before + LINE


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "a.jsonl",
            gzip.compress(LINE, mtime=0),
            "holds gzip, whatever its name ends with; end its name",
        ),
        ("a.txt", bz2.compress(LINE), "holds bzip2"),
        ("a.csv", lzma.compress(LINE), "holds xz"),
        ("a.jsonl.zst", gzip.compress(LINE, mtime=0), "holds gzip"),
        ("a.jsonl.gz", pa.compress(LINE, codec="zstd", asbytes=True), "holds Zstandard"),
        ("a.md", b"%PDF-1.7 ...", "holds PDF, whatever its name ends with; pdftotext"),
        ("a.jsonl", b"PAR1\x15\x04 ...", "holds Parquet"),
        ("a", b"SQLite format 3\x00", "holds an SQLite database"),
    ],
)
def test_a_file_that_is_of_another_kind_than_its_name_says_is_named(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert problem in str(caught.value)


def test_an_office_document_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.txt", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(DataError, match=r"holds a zip archive \(or .docx, .epub, .xlsx\)"):
        read(tmp_path / "a.txt")
