# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments, half of them in saves, and the same run again: the same bits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.stored.dcp import read_index
from tests.run_on_ranks import run_on_ranks
from tests.train.guard.fault_runs import curve, settings, write_inputs

KILLS, STEPS = 10, 80
THOROUGH_KILLS, THOROUGH_STEPS = 30, 200
OF_ADAPTER_KILLS, OF_ADAPTER_STEPS = 4, 30
KILL = "tests.train.kills:kill_and_go_on"


@pytest.mark.mcore
@pytest.mark.slow
def test_a_run_killed_many_times_ends_as_the_undisturbed_one(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    is_thorough = pytestconfig.getoption("--thorough")
    num_kills, steps = (THOROUGH_KILLS, THOROUGH_STEPS) if is_thorough else (KILLS, STEPS)
    write_inputs(tmp_path)
    run = settings(tmp_path, run="", bad="garbage", spike="ignore")
    run["schedule"] = {"steps": steps, "warmup_steps": 2}
    run["checkpoint"] = {"every_steps": 3, "keep_last": 2}
    run["model"] = {"path": str(tmp_path / "model"), "init": "random"}
    run["data"]["micro_batch_size"] = 4
    run["data"]["sources"] = {"letters": {"prefix": str(tmp_path / "letters")}}
    seed = time.time_ns() % 2**32
    cases = {"settings": run, "kills": num_kills, "seed": seed}
    run_on_ranks(KILL, tmp_path, world=1, cases=cases, timeout_s=900)
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert len(kills) == num_kills
    in_saves = sum(any(name.endswith(".partial") for name in kill["found"]) for kill in kills)
    assert in_saves >= num_kills // 10, f"seed {seed}: {kills}"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert curve(broken) == curve(whole), f"seed {seed}"
    name = f"checkpoints/step_{steps:08d}"
    found, expected = (CheckpointManifest.read(run / name).files for run in (broken, whole))
    assert found["__0_0.distcp"] == expected["__0_0.distcp"], f"seed {seed}"


@pytest.mark.mcore
@pytest.mark.slow
def test_a_killed_adapter_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """With the base beside it alone, of which its checkpoints hold nothing."""
    write_inputs(tmp_path)
    run = settings(tmp_path, run="", bad="garbage", spike="ignore")
    run["schedule"] = {"steps": OF_ADAPTER_STEPS, "warmup_steps": 2}
    run["checkpoint"] = {"every_steps": 3, "keep_last": 2, "asynchronous": True}
    run["data"]["micro_batch_size"] = 4
    run["data"]["sources"] = {"letters": {"prefix": str(tmp_path / "letters")}}
    run["adapter"] = {"method": "dora", "rank": 2, "dropout": 0.1, "train_head": True}
    seed = time.time_ns() % 2**32
    cases = {"settings": run, "kills": OF_ADAPTER_KILLS, "seed": seed}
    run_on_ranks(KILL, tmp_path, world=1, cases=cases, timeout_s=600)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert curve(broken) == curve(whole), f"seed {seed}"
    name = f"checkpoints/step_{OF_ADAPTER_STEPS:08d}"
    found, expected = (CheckpointManifest.read(run / name) for run in (broken, whole))
    assert found.files["__0_0.distcp"] == expected.files["__0_0.distcp"], f"seed {seed}"
    keys = [key for key in read_index(broken / name).state_dict_metadata if "_extra" not in key]
    weights = {key for key in keys if not key.startswith(("optimizer.", "rng"))}
    assert {key for key in weights if ".adapter." not in key} == {"output_layer.weight"}
    assert found.base == expected.base
    assert found.base is not None
    (tmp_path / "model").rename(tmp_path / "first")
    write_inputs(tmp_path, seed=6)
    run_on_ranks("tests.train.kills:go_on", tmp_path, world=1, cases={"settings": run})
    assert "is an adapter to other weights" in (broken / "error_0.txt").read_text()
