# SPDX-License-Identifier: Apache-2.0
"""Bad lines of every kind under each policy: stopped at, left out, or kept with their place."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megacpt.corpus.documents import OnError
from megacpt.errors import DataError
from megacpt.shards.tokenize import tokenize
from tests.corpus.cases import TINY, decoded, make, words, write_jsonl

BAD: dict[str, bytes] = {
    "broken_json": b'{"text": "a"',
    "no_object": b"[1]",
    "no_key": b'{"body": "a"}',
    "no_text": b'{"text": 5}',
    "invalid_utf8": b'{"text": "\xff"}',
    "invalid_unicode": b'{"text": "\\udfff"}',
    "oversized": b'{"text": "' + b"x" * 90_000 + b'"}',
}
LIMIT = 80_000


def with_bad_lines(path: Path) -> dict[int, str]:
    """Good lines with each kind of bad line twice among them; the kinds by line."""
    lines = write_jsonl(path, words(500, seed=3)).read_bytes().splitlines()
    placed: dict[int, str] = {}
    for n, kind in enumerate([*BAD, *BAD]):
        at = 30 * n + 11
        lines.insert(at, BAD[kind])
        placed[at + 1] = kind
    path.write_bytes(b"\n".join(lines) + b"\n")
    return placed


def kept(prefix: Path) -> list[dict[str, str | int]]:
    with Path(f"{prefix}.quarantine.jsonl").open() as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("kind", BAD)
def test_stop_names_file_and_line_wherever_the_piece_begins(tmp_path: Path, kind: str) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(300, seed=4))
    line = source.read_bytes().count(b"\n") + 1
    with source.open("ab") as stream:
        stream.write(BAD[kind] + b"\n")
    options = {"max_document_bytes": LIMIT, "piece_size": 1 << 16}
    with pytest.raises(DataError, match=rf"a.jsonl:{line}: .*finished pieces are used again"):
        make([source], tmp_path / "out", **options)
    assert not Path(f"{tmp_path}/out.idx").exists()
    told: list[str] = []
    options |= {"on_error": OnError.skip, "notice": told.append}
    manifest = make([source], tmp_path / "out", **options)
    assert "pieces are there already" in told[0]
    assert manifest.errors == {kind: 1}
    assert manifest.on_error == "skip"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1 << 12, 1 << 23])
def test_quarantine_keeps_lines_with_their_numbers(tmp_path: Path, workers: int, size: int) -> None:
    placed = with_bad_lines(tmp_path / "a.jsonl")
    good = write_jsonl(tmp_path / "b.jsonl", ["good"])
    inputs = [good, tmp_path / "a.jsonl", good]
    manifest = make(
        inputs,
        tmp_path / "out",
        workers=workers,
        piece_size=size,
        on_error=OnError.quarantine,
        max_document_bytes=LIMIT,
    )
    assert manifest.errors == dict.fromkeys(sorted(BAD), 2)
    found = kept(tmp_path / "out")
    assert {int(entry["line"]): entry["kind"] for entry in found} == placed
    assert {entry["file"] for entry in found} == {str(tmp_path / "a.jsonl")}
    for entry in found:
        content = entry.get("content", "").__str__().encode()
        if "content_base64" in entry:
            content = base64.b64decode(str(entry["content_base64"]))
        assert content == BAD[str(entry["kind"])]
        assert entry["problem"]
    texts = [text for text in words(500, seed=3) if text]
    assert decoded(tmp_path / "out") == ["good", *texts, "good"]


def test_skip_leaves_no_file_and_removes_one_of_before(tmp_path: Path) -> None:
    with_bad_lines(tmp_path / "a.jsonl")
    for policy in (OnError.quarantine, OnError.skip):
        options = {"on_error": policy, "max_document_bytes": LIMIT}
        manifest = make([tmp_path / "a.jsonl"], tmp_path / "out", **options)
        assert sum(manifest.errors.values()) == 2 * len(BAD)
    assert not Path(f"{tmp_path}/out.quarantine.jsonl").exists()


def test_pieces_with_bad_lines_are_made_again_under_another_policy(tmp_path: Path) -> None:
    placed = with_bad_lines(tmp_path / "a.jsonl")
    options = {"piece_size": 1 << 14, "max_document_bytes": LIMIT, "workers": 1}
    options |= {"tokenizer": TINY}
    tokenize(
        [tmp_path / "a.jsonl"],
        output_prefix=tmp_path / "out",
        task=(0, 1),
        on_error=OnError.skip,
        **options,
    )
    told: list[str] = []
    make(
        [tmp_path / "a.jsonl"],
        tmp_path / "out",
        on_error=OnError.quarantine,
        notice=told.append,
        **options,
    )
    assert "pieces are there already" in told[0]
    assert {int(entry["line"]) for entry in kept(tmp_path / "out")} == set(placed)


def test_values_of_parquet_and_text_files(tmp_path: Path) -> None:
    broken = pyarrow.array([b"fine", b"\xff", b"", None, b"x" * 200], pyarrow.binary())
    columns = {"text": broken.view(pyarrow.binary()), "n": pyarrow.array([1, 2, 3, 4, 5])}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "b.txt").write_bytes(b"\xfe")
    (tmp_path / "c.txt").write_bytes(b"whole file\n")
    options = {"on_error": OnError.quarantine, "max_document_bytes": 100, "piece_size": 10}
    manifest = make(
        [tmp_path / name for name in ("a.parquet", "b.txt", "c.txt")], tmp_path / "out", **options
    )
    assert decoded(tmp_path / "out") == ["fine", "whole file\n"]
    assert manifest.errors == {"invalid_utf8": 2, "no_text": 1, "oversized": 1}
    assert manifest.empty_documents == 1
    places = [(Path(str(e["file"])).name, e["line"]) for e in kept(tmp_path / "out")]
    assert places == [("a.parquet", 2), ("a.parquet", 4), ("a.parquet", 5), ("b.txt", 1)]


def test_numbers_in_a_parquet_column_are_no_text(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'text' is of type int64, which is no text"):
        make([tmp_path / "a.parquet"], tmp_path / "out")
