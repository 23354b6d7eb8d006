# SPDX-License-Identifier: Apache-2.0
"""The script with Megatron's flags writes the files Megatron-LM's own tool writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacpt.device.cpu import import_hook
from megacpt.shards.reader import IndexedShard
from megacpt.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "preprocess_data.py"
TINY = ROOT / "configs" / "model" / "tiny"
ROWS = [
    {"text": "ab", "body": "the law"},
    {"text": "ünï ✓\n", "body": "x"},
    {"text": "c" * 900, "body": "y z"},
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    common = ["--tokenizer-model", str(TINY), "--append-eod", "--workers", "2"]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *common, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )


def write(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_it_writes_a_shard_for_each_key(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl")
    done = run(
        *("--input", str(source), "--json-keys", "text", "body", "--output-prefix"),
        *(str(tmp_path / "a"), "--tokenizer-type", "HuggingFaceTokenizer"),
        *("--log-interval", "1000", "--partitions", "2", "--keep-sequential-samples"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote 3 documents") == 2
    tokenizer = load_tokenizer(TINY)
    for key in ("text", "body"):
        shard = IndexedShard(tmp_path / f"a_{key}_document")
        found = [tokenizer.decode(shard.document(n)) for n in range(3)]
        assert found == [f"{row[key]}<eos>" for row in ROWS]


@pytest.mark.mcore
def test_the_bytes_are_those_of_megatron_s_builder(tmp_path: Path) -> None:
    """As that tool calls it: a document at a time, with the lengths of its one sentence."""
    import_hook.install()
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    tokenizer = load_tokenizer(TINY)
    builder = IndexedDatasetBuilder(
        str(tmp_path / "peer.bin"), dtype=DType.optimal_dtype(tokenizer.vocab_size)
    )
    for row in ROWS:
        ids = [*tokenizer.encode(row["text"]).tolist(), tokenizer.eos_id]
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(tmp_path / "peer.idx"))
    source = write(tmp_path / "a.jsonl")
    done = run("--input", str(source), "--output-prefix", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    for kind in ("bin", "idx"):
        ours = (tmp_path / f"a_text_document.{kind}").read_bytes()
        assert ours == (tmp_path / f"peer.{kind}").read_bytes()
    peer, mine = IndexedShard(tmp_path / "peer"), IndexedShard(tmp_path / "a_text_document")
    assert np.array_equal(peer.lengths, mine.lengths)


@pytest.mark.slow
def test_the_bytes_are_those_of_megatron_lm_s_own_tool(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """pytest tests/tools --megatron-lm FOLDER --megatron-python PYTHON"""
    checkout = pytestconfig.getoption("--megatron-lm")
    if checkout is None:
        pytest.skip("--megatron-lm FOLDER was not given")
    source = write(tmp_path / "a.jsonl")
    words = ["--input", str(source), "--json-keys", "text", "body", "--append-eod", "--workers"]
    words += ["2", "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(TINY)]
    tool = [pytestconfig.getoption("--megatron-python"), f"{checkout}/tools/preprocess_data.py"]
    peer = [*tool, *words, "--output-prefix", str(tmp_path / "peer")]
    subprocess.run(peer, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": checkout})
    assert run(*words, "--output-prefix", str(tmp_path / "a")).returncode == 0
    for key in ("text", "body"):
        for kind in ("bin", "idx"):
            ours = (tmp_path / f"a_{key}_document.{kind}").read_bytes()
            assert ours == (tmp_path / f"peer_{key}_document.{kind}").read_bytes()


def test_a_missing_input_is_one_line(tmp_path: Path) -> None:
    done = run("--input", str(tmp_path / "gone"), "--output-prefix", str(tmp_path / "a"))
    assert done.returncode == 2
    assert done.stderr.startswith("Error: input ")
    assert "does not exist; give files" in done.stderr
    assert "Traceback" not in done.stderr
