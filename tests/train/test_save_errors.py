# SPDX-License-Identifier: Apache-2.0
"""Disk full, file system read-only, no permission: the run goes on or stops, and says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run_on_ranks import rank_command, start_rank, wait_for_ranks
from tests.train.guard.fault_runs import settings, write_inputs

RUN_CASES = "tests.train.failing_saves:run_cases"
NAMESPACE = ["unshare", "--map-root-user", "--mount"]
STEPS = 36


def can_mount() -> bool:
    script = "mount -t tmpfs none /mnt"
    try:
        return subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not can_mount():
        pytest.skip("no user namespaces here")
    folder = tmp_path_factory.mktemp("errors")
    write_inputs(folder)
    run = settings(folder, run="", bad="garbage", spike="ignore")
    run["schedule"] = {"steps": STEPS, "warmup_steps": 2}
    run["checkpoint"] = {"every_steps": 6, "keep_last": 2}
    run["model"] = {"path": str(folder / "model"), "init": "random"}
    run["data"]["sources"] = {"letters": {"prefix": str(folder / "letters")}}
    cases = {"settings": run}
    command = rank_command(RUN_CASES, folder, cases=cases, python=sys.executable)
    command = [*NAMESPACE, *command]
    wait_for_ranks([start_rank(command, variables={})], timeout_s=300)
    return folder


def found(work: Path, case: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((work / f"{case}.json").read_text())
    return result


@pytest.mark.mcore
@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_the_saves_of_that_while(work: Path) -> None:
    result = found(work, "full_for_a_while")
    assert result["codes"] == [0]
    assert result["steps"] == STEPS
    assert result["checkpoints"][-1] == f"step_{STEPS:08d}"
    assert result["whole"] == [True, True]
    assert "No space left on device" in result["log"]
    assert "is whole. Free space or fix what is wrong there; the run goes on" in result["log"]


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("full_for_good", "No space left on device"),
        ("read_only", "Read-only file system"),
        ("no_permission", "Permission denied"),
    ],
)
def test_the_third_failure_in_a_row_ends_the_run(work: Path, case: str, reason: str) -> None:
    result = found(work, case)
    assert result["codes"] == [2]
    assert result["log"].count("the run goes on and saves again when it is due") == 2
    assert f"could not be written: {reason}" in result["error"]
    assert "start the same command again" in result["error"]
    assert result["whole"], "the last good ones are there"
    assert all(result["whole"])
    if case == "full_for_good":
        assert not [name for name in result["checkpoints"] if name.startswith(".")]


@pytest.mark.mcore
@pytest.mark.slow
def test_stop_means_the_first_failure(work: Path) -> None:
    result = found(work, "stops_at_once")
    assert result["codes"] == [2]
    assert "the run goes on" not in result["log"]
    assert "Read-only file system" in result["error"]
    assert result["whole"]
    assert all(result["whole"])


@pytest.mark.mcore
@pytest.mark.slow
def test_the_last_save_must_succeed_and_the_same_command_goes_on(work: Path) -> None:
    result = found(work, "full_at_the_end")
    assert result["codes"] == [2]
    assert "No space left on device" in result["error"]
    assert result["then"]["codes"] == [0]
    assert result["then"]["whole"] == [True]


@pytest.mark.mcore
def test_the_reason_is_the_system_s_own(one_rank: None) -> None:
    from megacpt.checkpoint.writer.saver import reason_of

    hidden = RuntimeError("unexpected pos 64 vs 0")
    hidden.__context__ = PermissionError(13, "Permission denied", "/runs/a")
    assert reason_of(hidden) == "Permission denied"
    assert reason_of(RuntimeError("one\ntwo")) == "one"
    assert reason_of(RuntimeError()) == "RuntimeError"
