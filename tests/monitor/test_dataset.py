# SPDX-License-Identifier: Apache-2.0
"""The text fits a terminal and says what was counted; the picture is one in three formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megacpt.errors import ConfigError
from megacpt.monitor.dataset_figure import draw
from megacpt.monitor.dataset_text import bar, by_doubling, shard_text, shown
from megacpt.shards.inspect import Inspection, inspect_shard
from megacpt.shards.manifest import BackendRecord, InputFile
from megacpt.shards.reader import write_shard
from megacpt.shards.tokenize import OnError, tokenize
from megacpt.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


@pytest.fixture
def found(tmp_path: Path) -> Inspection:
    paths = []
    for n in range(5):
        path = tmp_path / f"{'long-name-' * 8}{n}.jsonl"
        texts = ["word " * (k * k + 1) + "\x1b[2Jend" for k in range(20 * n)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        paths.append(path)
    prefix = tmp_path / "shard"
    tokenize(paths, tokenizer=TINY, output_prefix=prefix, workers=1)
    return inspect_shard(prefix, tokenizer=load_tokenizer(TINY), samples=3)


def test_every_line_fits_and_control_characters_are_gone(found: Inspection) -> None:
    text = shard_text(found)
    assert max(len(line) for line in text.splitlines() if not line.startswith("Shard")) <= 80
    assert all(c.isprintable() for c in text.replace("\n", ""))


def test_what_is_said(found: Inspection) -> None:
    text = shard_text(found)
    for words in (
        "Documents     200\n",
        "              ... 5 files in all, ",
        "Ends with EOS 200 of 200 documents looked at (100%)",
        "Checksums     not compared (--verify)",
        "Vocabulary, over all tokens",
        " of 257 ids are used (",
        "  ' '\n",
        "  | ...\n",
        "<eos>\n",
    ):
        assert words in text
    assert "Learned" not in text
    masked = shard_text(replace(found, learned=found.lengths.tokens // 4))
    assert f"Learned       {found.lengths.tokens // 4:,} tokens (25.0%), by .mask\n" in masked
    assert "Checksums     both files are as" in shard_text(replace(found, verified=True))


def test_a_shard_wholly_outside_its_vocabulary_is_shown(found: Inspection) -> None:
    use = found.vocabulary
    none = replace(use, ids_used=0, largest_id=None, outside=use.tokens_counted, top=())
    text = shard_text(replace(found, vocabulary=none))
    assert f"WARNING: {use.tokens_counted:,} tokens are outside the vocabulary" in text


def test_a_sample_of_the_tokens_is_called_one(found: Inspection) -> None:
    use = replace(found.vocabulary, tokens_counted=found.lengths.tokens // 2, outside=3)
    text = shard_text(replace(found, vocabulary=use))
    assert "over a sample of " in text
    assert "--full reads all" in text
    assert "at most " in text
    assert "WARNING: 3 tokens are outside the vocabulary" in text


def test_a_shard_of_another_tool(tmp_path: Path) -> None:
    write_shard(tmp_path / "bare", documents=[[5, 1], []], vocab_size=9)
    text = shard_text(inspect_shard(tmp_path / "bare"))
    assert "no manifest: written by another tool" in text
    assert "2 ids are used, the largest is 5" in text
    assert "Ends with EOS not known" in text


def test_nothing_in_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "none", documents=[], vocab_size=9)
    assert "Tokens        0, " in shard_text(inspect_shard(tmp_path / "none"))


def test_written_without_eos_is_said(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "ab"}\n')
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "a", append_eos=False, workers=1)
    text = shard_text(inspect_shard(tmp_path / "a"))
    assert "0 of 1 documents looked at (0%), written without EOS" in text


def test_what_was_left_out_and_who_encoded(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "ab"}\n{"text": ""}\n{\n[]\n')
    policy = OnError.quarantine
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "a", on_error=policy)
    found = inspect_shard(tmp_path / "a")
    text = shard_text(found)
    words = "1 empty, 1 broken_json, 1 no_object; see a.quarantine.jsonl"
    assert f"Left out      {words}\n" in text
    assert found.manifest is not None
    records = (BackendRecord(name="x 1", documents=1, checked_documents=9, checked_bytes=2100),)
    wild = InputFile(path="\x1b[2J\ud800", bytes=1, sha256="")
    manifest = replace(
        found.manifest, backends=records, errors={}, long_documents=2, inputs=(wild,)
    )
    text = shard_text(replace(found, manifest=manifest))
    assert "Encoded by    x 1, the same ids as tokenizers on 9 excerpts (2.1 kB)\n" in text
    assert "Made from     [2J , 1 bytes\n" in text
    assert "Long          2 documents over 100,000 tokens\n" in text


def test_doublings_hold_all_documents(found: Inspection) -> None:
    merged = by_doubling(found.lengths.bins)
    assert sum(b.documents for b in merged) == found.lengths.documents
    assert sum(b.tokens for b in merged) == found.lengths.tokens
    assert all(b.last + 1 == 2 * b.first for b in merged)


@pytest.mark.parametrize(
    ("share", "expected"), [(0, ""), (1e-9, "▏"), (0.5, "██"), (0.6, "██▍"), (1, "████")]
)
def test_bars(share: float, expected: str) -> None:
    assert bar(share, width=4) == expected


def test_long_ids_are_cut() -> None:
    assert shown("\n" * 30, width=12) == "'\\n\\n\\n\\n..."


@pytest.mark.parametrize(
    ("kind", "beginning"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_the_picture(found: Inspection, tmp_path: Path, kind: str, beginning: bytes) -> None:
    path = tmp_path / "new" / f"lengths.{kind}"
    draw(found, path=path)
    assert path.read_bytes().startswith(beginning)


def test_the_picture_of_empty_documents(tmp_path: Path) -> None:
    write_shard(tmp_path / "empty", documents=[[], [], [1]], vocab_size=9)
    draw(inspect_shard(tmp_path / "empty"), path=tmp_path / "empty.svg")
    assert "2 empty, not drawn" in (tmp_path / "empty.svg").read_text()
    write_shard(tmp_path / "none", documents=[], vocab_size=9)
    draw(inspect_shard(tmp_path / "none"), path=tmp_path / "none.png")


def test_another_format_is_refused(found: Inspection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lengths.gif must end with .png, .svg or .pdf"):
        draw(found, path=tmp_path / "lengths.gif")
