# SPDX-License-Identifier: Apache-2.0
"""What lies on disk keeps its names: earlier checkpoints and run folders must go on loading."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.checkpoint.manifest import MANIFEST, CheckpointManifest, FileSum
from megacpt.config.paths import RunFolder
from tests.checkpoint.small import claim, names, write, write_partial


def test_fields_of_the_manifest() -> None:
    assert [field.name for field in fields(CheckpointManifest)] == [
        "step",
        "start",
        "architecture",
        "layout",
        "data",
        "tokens_per_source",
        "elapsed_s",
        "base_heldout",
        "heldout",
        "faults",
        "files",
        "base",
        "gate",
    ]
    assert [field.name for field in fields(FileSum)] == ["bytes", "xxh128"]
    assert MANIFEST == "manifest.json"


def test_a_manifest_as_it_was_always_written(tmp_path: Path) -> None:
    """Its checksum is over these bytes: another order or spelling of keys would refuse it."""
    files = '"files": {"common.pt": {"bytes": 40, "xxh128": "00ff"}}'
    (tmp_path / MANIFEST).write_text(
        '{"step": 2, "start": 1, "architecture": {"hidden_size": 64}, '
        '"layout": {"tp": 1, "cp": 1, "pp": 1, "vpp": 1, "dp": 2, "ep": 1, "etp": 1}, '
        '"data": {"step": 2}, "tokens_per_source": {"domain": 20}, "elapsed_s": 1.5, '
        '"base_heldout": null, "heldout": {"plant": 2.5}, "faults": {"updates": 2}, '
        f'{files}, "manifest_xxh128": "97aab70df62052bdb035a03c18a0991a"}}'
    )
    manifest = CheckpointManifest.read(tmp_path)
    assert (manifest.step, manifest.layout["dp"]) == (2, 2)
    assert manifest.files == {"common.pt": FileSum(bytes=40, xxh128="00ff")}


def test_names_in_a_run_folder(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    start = claim(root, from_step=0)
    write(root, step=2, start=start)
    write_partial(root, step=4, start=start)
    assert names(tmp_path) == ["checkpoints", "starts"]
    assert names(root) == [".step_00000004.000001.partial", "latest", "step_00000002"]
    assert names(tmp_path / "starts") == ["000001.json"]
    folder = RunFolder(tmp_path)
    paths = (folder.run_yaml, folder.plan_json, folder.warm_start, folder.faults, folder.request)
    assert [path.name for path in paths] == [
        "run.yaml",
        "plan.json",
        "warm_start.json",
        "faults.jsonl",
        "request",
    ]


@pytest.mark.mcore
def test_keys_of_a_saved_state(tmp_path: Path, one_rank: None) -> None:
    """One weight in bf16 with its master, one in fp32 without."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor
    from torch.distributed.checkpoint import FileSystemReader

    from megacpt.checkpoint.state.optimizer import fill_optimizer, optimizer_entries, tensors_of
    from megacpt.checkpoint.writer.saver import save_now

    narrow = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.bfloat16))
    wide, master = torch.nn.Parameter(torch.ones(3)), torch.ones(4, 2)
    narrow.main_param = master  # type: ignore[attr-defined]
    weights = {
        name: ShardedTensor.from_rank_offsets(name, param)
        for name, param in (("narrow.weight", narrow), ("wide.weight", wide))
    }
    optimizer = torch.optim.AdamW([master, wide])
    for param in (master, wide):
        param.grad = torch.ones_like(param)
    optimizer.step()
    entries = optimizer_entries(Member(optimizer), model={"model0": weights})
    save_now(tmp_path, state={"model0": weights, "optimizer": entries})
    assert sorted(FileSystemReader(tmp_path).read_metadata().state_dict_metadata) == [
        "narrow.weight",
        "optimizer.state.exp_avg.narrow.weight",
        "optimizer.state.exp_avg.wide.weight",
        "optimizer.state.exp_avg_sq.narrow.weight",
        "optimizer.state.exp_avg_sq.wide.weight",
        "optimizer.state.fp32_param.narrow.weight",
        "wide.weight",
    ]
    assert names(tmp_path) == [".metadata", "__0_0.distcp", "common.pt", "metadata.json"]
    ones = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    fill_optimizer(
        tensors_of({"part0": {"model0.wide.weight": entries["part0"]["model0.wide.weight"]}}),
        loaded={"part0": {"model0.wide.weight": ones}},
    )
    assert torch.equal(optimizer.state[wide]["exp_avg"], torch.ones(3))


class Member:
    """One optimizer, as megatron-core holds it."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
