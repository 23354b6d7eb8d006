# SPDX-License-Identifier: Apache-2.0
"""Emulated recipes train nearly as bf16 does, in every layout, and resume bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import PYTHON
from tests.support import write_model_folder
from tests.train.parity import train_curves, write_run_inputs

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

EIGHT_BITS = ("delayed", "tensorwise", "blockwise", "mxfp8")
BOUNDS = dict.fromkeys(EIGHT_BITS, 0.005) | {"nvfp4": 0.015}
"""Largest relative distance of a step's loss from bf16's, over all steps of this tiny model."""
TENSORS = {"tp": 2, "sequence_parallel": True}
REPLICAS = {"dp": 2, "distributed_optimizer": True}


def case(recipe: str, *, parallel: dict[str, Any] | None = None, **precision: Any) -> Any:
    return {
        "parallel": parallel or {},
        "precision": {"dtype": "bf16", "recipe": recipe, **precision},
        "data": {"micro_batch_size": 4 if parallel is None or "dp" not in parallel else 2},
    }


CASES = {
    1: {
        "bf16": case("none"),
        **{recipe: case(recipe) for recipe in BOUNDS},
        "delayed again": case("delayed"),
        "delayed recomputed": case("delayed", parallel={"recompute": "full"}),
        "ends in bf16": case("tensorwise", bf16_first_layers=2, bf16_last_layers=2),
    },
    2: {
        "delayed tp2": case("delayed", parallel=TENSORS),
        "blockwise tp2": case("blockwise", parallel=TENSORS),
        "delayed pp2": case("delayed", parallel={"pp": 2}),
        "delayed dp2": case("delayed", parallel=REPLICAS),
        "nvfp4 dp2": case("nvfp4", parallel=REPLICAS),
    },
}


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("precision")
    write_run_inputs(work, tied=True)
    return train_curves(work, CASES)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Of the losses."""
    return float(np.abs(found[:, 0] / expected[:, 0] - 1).max())


@pytest.mark.parametrize("recipe", BOUNDS)
def test_a_recipe_stays_near_bf16_and_is_not_bf16(
    curves: dict[str, np.ndarray], recipe: str
) -> None:
    assert 1e-6 < distance(curves[recipe], curves["bf16"]) < BOUNDS[recipe]


def test_recipes_are_not_one_another(curves: dict[str, np.ndarray]) -> None:
    final_losses = {name: curves[name][-1, 0] for name in BOUNDS}
    assert len(set(final_losses.values())) == len(BOUNDS)


def test_a_recipe_is_deterministic(curves: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(curves["delayed again"], curves["delayed"])


def test_recomputed_layers_have_the_scales_of_their_first_pass(
    curves: dict[str, np.ndarray],
) -> None:
    np.testing.assert_array_equal(curves["delayed recomputed"], curves["delayed"])


def test_layers_left_out_are_plain_bf16(curves: dict[str, np.ndarray]) -> None:
    """All four layers are left out."""
    np.testing.assert_array_equal(curves["ends in bf16"], curves["bf16"])


def test_stages_keep_histories_of_their_own(curves: dict[str, np.ndarray]) -> None:
    """Each microbatch meets the same scales. Gradients are summed in another order, which bf16
    weights carry on from the second step."""
    np.testing.assert_array_equal(curves["delayed pp2"][0, 0], curves["delayed"][0, 0])
    np.testing.assert_allclose(curves["delayed pp2"][0, 1], curves["delayed"][0, 1], rtol=1e-3)
    assert distance(curves["delayed pp2"], curves["delayed"]) < 0.002


@pytest.mark.parametrize("name", CASES[2])
def test_layouts_stay_near_one_rank(curves: dict[str, np.ndarray], name: str) -> None:
    """Not equal: cut matrices are rounded apart, and replicas see each other's largest values."""
    recipe = name.split()[0]
    assert distance(curves[name], curves[recipe]) < BOUNDS[recipe]


def run_tiny(run_dir: Path, *settings: str) -> list[dict[str, Any]]:
    """The records of a training run, which it starts or goes on with."""
    words = ["train", "experiment=tiny", f"run_dir={run_dir}", "cluster.device=cpu"]
    words += ["schedule.steps=6", "checkpoint.every_steps=3", "data.global_batch_size=4", *settings]
    done = subprocess.run(
        [PYTHON, "-m", "megacpt", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (run_dir / "terminal.txt").write_text(done.stdout + done.stderr)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=["fp8_delayed", "nvfp4"])
def resumed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A run, and the same with its second half done again from the checkpoint between."""
    work = tmp_path_factory.mktemp("resumed")
    run_dir, model = work / "run", write_model_folder(work / "model")
    settings = [f"precision={request.param}", f"model.path={model}"]
    whole = run_tiny(run_dir, *settings)
    shutil.rmtree(run_dir / "checkpoints" / "step_00000006")
    again = run_tiny(run_dir, *settings)
    return {"recipe": request.param, "run_dir": run_dir, "whole": whole, "again": again}


def test_a_resumed_run_is_the_same_run(resumed: dict[str, Any]) -> None:
    """Delayed scaling's histories are in the checkpoint, and so is what rounding draws from."""

    def numbers(records: list[dict[str, Any]]) -> list[tuple[float, float]]:
        return [(r["loss"], r["grad_norm"]) for r in records[1:]]

    assert numbers(resumed["again"]) == numbers(resumed["whole"])


def test_an_emulation_is_called_one_everywhere(resumed: dict[str, Any]) -> None:
    run_dir, label = resumed["run_dir"], "(emulation, not FP8 hardware)"
    assert label in (run_dir / "terminal.txt").read_text()
    assert all(label in record["arithmetic"] for record in resumed["again"])
    environment = json.loads((run_dir / "environment.json").read_text())
    assert label in environment["settings"]["arithmetic"]
    command = [PYTHON, "-m", "megacpt", "report", str(run_dir)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert label in (run_dir / "report.html").read_text()
