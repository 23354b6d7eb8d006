# SPDX-License-Identifier: Apache-2.0
"""The tool with Megatron's flags, and ``megacpt merge``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.shards.tokenize import tokenize

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "model" / "tiny"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_shard("in/b", documents=[[1, 2]], vocab_size=9)
    write_shard("in/a", documents=[[3]], vocab_size=9)
    return tmp_path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "merge_datasets.py"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def documents(prefix: Path) -> list[list[int]]:
    shard = IndexedShard(prefix)
    return [shard.document(n).tolist() for n in range(shard.num_documents)]


def test_a_folder_by_name_and_prefixes_as_given(folder: Path) -> None:
    done = run("--input", "in", "--output-prefix", "out/all")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Wrote 2 documents, 3 tokens of 2 shards:\n  out/all.bin, out/all.idx\n"
        "Next: megacpt inspect out/all\n"
    )
    assert documents(folder / "out" / "all") == [[3], [1, 2]]
    assert run("in/b", "in/a", "--output-prefix", "all").returncode == 0
    assert documents(folder / "all") == [[1, 2], [3]]


@pytest.mark.parametrize("words", [["--output-prefix", "x"], ["in/a", "--input", "in"]])
def test_a_folder_or_prefixes_must_be_given(folder: Path, words: list[str]) -> None:
    assert run(*words).returncode == 2


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    done = run("--input", "gone", "--output-prefix", "all")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: gone is not a folder; give the one that holds the shards.\n"


def test_the_verb_names_the_manifest_it_wrote(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jsonl").write_text('{"text": "ab"}\n')
    tokenize(["a.jsonl"], tokenizer=TINY, output_prefix="a", workers=1)
    assert main(["merge", "a", "a", "--output", "twice"]) == 0
    assert "of 2 shards:\n  twice.bin, twice.idx, twice.json\n" in capsys.readouterr().out
    assert documents(folder / "twice") == 2 * documents(folder / "a")
