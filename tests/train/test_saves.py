# SPDX-License-Identifier: Apache-2.0
"""Runs that save beside training, save and end when asked, and are superseded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.guard.fault_runs import curve, settings, write_inputs

pytestmark = [pytest.mark.mcore, pytest.mark.slow]
RUN_CASES = "tests.train.asked_saves:run_cases"
STEPS = 40
CASES = [
    "save",
    "save_and_exit",
    "stop",
    "time_limit",
    "superseded",
    "writer_killed",
    "usr1",
    "term_to_one_rank",
]
SAME_BYTES = ["", "_overlap", "_offload", "_muon", "_zero1", "_zero3"]
if importlib.util.find_spec("emerging_optimizers") is None:
    SAME_BYTES.remove("_muon")


def small_run(work: Path) -> dict[str, Any]:
    run = settings(work, run="", bad="garbage", spike="ignore")
    run["schedule"] = {"steps": STEPS, "warmup_steps": 2}
    run["checkpoint"] = {"every_steps": 2, "keep_last": 2}
    run["model"] = {"path": str(work / "model"), "init": "random"}
    run["data"]["sources"] = {"letters": {"prefix": str(work / "letters")}}
    return run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("save")
    write_inputs(folder)
    cases = [*CASES, *(f"bytes{of}" for of in SAME_BYTES)]
    run_on_ranks(RUN_CASES, folder, world=1, cases={"cases": cases, "settings": small_run(folder)})
    return folder


def found(work: Path, case: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((work / f"{case}.json").read_text())
    return result


def step_of(result: dict[str, Any]) -> int:
    """The newest checkpoint's."""
    return int(result["checkpoints"][-1].removeprefix("step_"))


@pytest.mark.parametrize("of", SAME_BYTES)
def test_a_save_beside_training_is_the_state_of_its_step_bit_for_bit(work: Path, of: str) -> None:
    sums = found(work, f"bytes{of}")
    assert sums["True"] == sums["False"]
    assert len(sums["True"]) == 4
    assert len({json.dumps(files) for files in sums["True"]}) == 4, "all steps differ"


def test_data_parallel_ranks_write_a_share_each(work: Path) -> None:
    assert all(len(files) == 2 for files in found(work, "bytes_zero1")["True"])
    assert all(len(files) == 2 for files in found(work, "bytes_zero3")["True"])


def test_a_file_asks_for_a_save_and_the_run_goes_on(work: Path) -> None:
    result = found(work, "save")
    assert result["codes"] == [0]
    assert result["steps"] == STEPS
    assert not result["request"]
    assert len(result["checkpoints"]) == 2
    assert step_of(result) == STEPS
    assert "'nonsense' is none of save, save_and_exit, stop; ignored" in result["log"]


def test_a_file_asks_for_a_save_and_an_end(work: Path) -> None:
    result = found(work, "save_and_exit")
    assert result["codes"] == [85]
    assert not result["request"]
    assert 4 <= result["steps"] == step_of(result) < STEPS
    assert result["error"] == (
        f"Ended after step {result['steps']} of {STEPS}, saved, because the file `request` said "
        f"save_and_exit. The newest checkpoint is of step {result['steps']}: start the same "
        "command again to go on from it."
    )


def test_a_file_asks_for_an_end_without_a_save(work: Path) -> None:
    result = found(work, "stop")
    assert result["codes"] == [85]
    assert not result["request"]
    assert step_of(result) == result["steps"] // 2 * 2
    assert "without saving, because the file `request` said stop" in result["error"]


@pytest.mark.parametrize(("case", "signal"), [("usr1", "SIGUSR1"), ("term_to_one_rank", "SIGTERM")])
def test_a_signal_saves_and_ends_all_ranks_and_the_run_goes_on(
    work: Path, case: str, signal: str
) -> None:
    result = found(work, case)
    first, then = result["first"], result["then"]
    assert set(first["codes"]) == {85}
    assert f"because {signal} came" in first["error"]
    assert step_of(first) == first["steps"] < STEPS
    assert set(then["codes"]) == {0}
    assert step_of(then) == STEPS
    assert f"step_{first['steps']:08d}" in then["log"], "it went on from where it was saved"


def test_a_run_of_signals_has_the_curve_of_an_undisturbed_one(work: Path) -> None:
    assert curve(work / "usr1") == curve(work / "save")


def test_the_time_limit_ends_a_run_in_time_and_each_start_gets_on(work: Path) -> None:
    results = found(work, "time_limit")["all"]
    assert [result["codes"] for result in results] == [[85], [85], [0]]
    assert [step_of(result) for result in results] == [1, 2, 3]
    assert "because the time limit is near" in results[0]["error"]


def test_a_newer_start_ends_the_older_which_writes_nothing_more(work: Path) -> None:
    result = found(work, "superseded")
    assert result["codes"] == [76]
    assert "superseded by start 2" in result["error"]
    # One step may have been through its look at the fence when the newer start came.
    assert result["steps"] <= result["claimed_at"] + 1
    published = [name for name in result["checkpoints"] if not name.startswith(".")]
    assert set(published) <= set(result["before"])


def test_a_killed_writer_costs_one_checkpoint(work: Path) -> None:
    result = found(work, "writer_killed")
    assert result["codes"] == [0]
    assert step_of(result) == STEPS
    assert result["log"].count("could not be written") == 1
    assert "killed by SIGKILL, which the system does when memory runs out (rank 0)" in result["log"]
    assert "there is none before it. Free space or fix what is wrong there" in result["log"]
