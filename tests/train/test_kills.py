# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at 30 random moments, half of them in saves, and the same run again: the same bits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from megacpt.checkpoint.manifest import CheckpointManifest
from tests.run_on_ranks import run_on_ranks
from tests.train.guard.fault_runs import curve, settings, write_inputs

KILLS = 30
STEPS = 200


@pytest.mark.mcore
@pytest.mark.slow
def test_a_run_killed_thirty_times_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    run = settings(tmp_path, run="", bad="garbage", spike="ignore")
    run["schedule"] = {"steps": STEPS, "warmup_steps": 2}
    run["checkpoint"] = {"every_steps": 3, "keep_last": 2}
    run["model"] = {"path": str(tmp_path / "model"), "init": "random"}
    run["data"]["micro_batch_size"] = 4
    run["data"]["sources"] = {"letters": {"prefix": str(tmp_path / "letters")}}
    target, seed = "tests.train.kills:kill_and_go_on", time.time_ns() % 2**32
    cases = {"settings": run, "kills": KILLS, "seed": seed}
    run_on_ranks(target, tmp_path, world=1, cases=cases, timeout_s=900)
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert len(kills) == KILLS
    in_saves = sum(any(name.endswith(".partial") for name in kill["found"]) for kill in kills)
    assert in_saves >= 3, f"seed {seed}: {kills}"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert curve(broken) == curve(whole), f"seed {seed}"
    name = f"checkpoints/step_{STEPS:08d}"
    found, expected = (CheckpointManifest.read(run / name).files for run in (broken, whole))
    assert found["__0_0.distcp"] == expected["__0_0.distcp"], f"seed {seed}"
