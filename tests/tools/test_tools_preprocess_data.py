# SPDX-License-Identifier: Apache-2.0
"""The script with Megatron's flags writes a shard, and says in one line what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from megacpt.data.indexed import IndexedShard

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "preprocess_data.py"
TINY = ROOT / "configs" / "model" / "tiny"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    common = ["--tokenizer-model", str(TINY), "--append-eod", "--workers", "2"]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *common, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )


def test_it_writes_a_shard(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "ab"}\n')
    done = run(
        *("--input", str(tmp_path / "a.jsonl"), "--json-keys", "body"),
        *("--output-prefix", str(tmp_path / "a")),
    )
    assert done.returncode == 0, done.stderr
    assert "1 documents, 3 tokens" in done.stdout
    assert IndexedShard(tmp_path / "a").document(0).tolist()[-1] == 256


def test_a_missing_input_is_one_line(tmp_path: Path) -> None:
    done = run("--input", str(tmp_path / "gone"), "--output-prefix", str(tmp_path / "a"))
    assert done.returncode == 2
    assert done.stderr.strip().endswith("does not exist; give a JSONL file, plain or .gz.")
    assert "Traceback" not in done.stderr
