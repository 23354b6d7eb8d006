# SPDX-License-Identifier: Apache-2.0
"""Files of Megatron's own writer train unchanged: no manifest, several sequences a document."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from megacpt.device.cpu import import_hook
from megacpt.shards.reader import write_shard
from tests.forked import PYTHON

SETTINGS = [
    "model=tiny",
    "precision=fp32",
    "data.sequence_length=32",
    "data.global_batch_size=4",
    "schedule.steps=3",
    "schedule.warmup_steps=1",
    "data.document_mask=true",
    "evaluate=default",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
]
EOS = 256

pytestmark = [pytest.mark.mcore, pytest.mark.slow]


def documents() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 90, size=60)
    return [np.append(generator.integers(0, 256, size=n), EOS).astype(np.uint16) for n in lengths]


def losses(run_dir: Path, prefix: Path) -> list[float]:
    words = ["train", f"run_dir={run_dir}", f"data.sources.law.prefix={prefix}", *SETTINGS]
    subprocess.run([PYTHON, "-m", "megacpt", *words], check=True, timeout=300)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["step"] > 0]


def test_the_files_of_megatron_s_builder_train_the_same_curve(tmp_path: Path) -> None:
    import_hook.install()
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for document in documents():
        # As Megatron-LM's preprocess_data.py does with --split-sentences: a list of lengths.
        half = document.size // 2
        builder.add_document(document, [half, document.size - half])
    builder.finalize(str(tmp_path / "theirs.idx"))
    write_shard(tmp_path / "ours", documents=documents(), vocab_size=257)
    ours = losses(tmp_path / "run-ours", tmp_path / "ours")
    assert len(ours) == 3
    assert losses(tmp_path / "run-theirs", tmp_path / "theirs") == ours
