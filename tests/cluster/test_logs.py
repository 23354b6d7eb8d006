# SPDX-License-Identifier: Apache-2.0
"""The first error among what ranks and srun have left, of the start that is asked about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.cluster import logs
from megacpt.cluster.restarts import JobStart, note_end, note_start
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError

START = JobStart(job="7", restart=1, nodes="n[1-2]", continues=True, step=8, time=10.0)
CODES = {"user": 2, "defect": 1, "peer": 75, "hang": 75, "saved": 85}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "logs").mkdir()
    return RunFolder(tmp_path)


def report(
    folder: RunFolder, rank: int, kind: str, *, at: float = 20.0, slurm: str | None = "7.1"
) -> None:
    record = {
        "rank": rank,
        "slurm": slurm,
        "time": at,
        "kind": "user" if kind == "saved" else kind,
        "exit_code": CODES[kind],
        "message": f"{kind} of {rank}",
        "traceback": f"Traceback\nValueError: {kind} of {rank}\n",
    }
    folder.error_of(rank).write_text(json.dumps(record))


def say(folder: RunFolder, *lines: str, start: JobStart = START) -> None:
    mark = logs.heading(job=start.job, restart=start.restart)
    with folder.train_log.open("a") as stream:
        stream.write("\n".join(["", f"{mark} on {start.nodes}, today", *lines, ""]))


def cause(folder: RunFolder) -> tuple[int, str] | None:
    found = logs.first_error(folder, start=START)
    return (found.exit_code, found.text) if found else None


def test_a_ranks_own_error_counts_before_lost_connections(folder: RunFolder) -> None:
    assert cause(folder) is None
    report(folder, 0, "peer", at=11)
    report(folder, 2, "defect", at=13)
    report(folder, 1, "defect", at=12)
    assert cause(folder) == (1, "Traceback\nValueError: defect of 1\n(rank 1)")


def test_a_killed_rank_counts_before_lost_connections(folder: RunFolder) -> None:
    report(folder, 0, "peer")
    say(folder, "srun: error: n2: tasks 8-9: Killed", "srun: error: n1: task 0: Exited with x")
    code, text = cause(folder) or (0, "")
    assert code == 75
    assert text.startswith("Error: ranks 8-9 on n2: Killed (the system does that when memory")


def test_what_srun_itself_has_killed_is_no_cause(folder: RunFolder) -> None:
    say(
        folder,
        "srun: error: n2: task 1: Exited with exit code 1",
        "srun: launch/slurm: _step_signal: Terminating StepId=7.0",
        "srun: error: n1: task 0: Killed",
    )
    assert cause(folder) is None


def test_other_starts_have_errors_of_their_own(folder: RunFolder) -> None:
    report(folder, 0, "defect", slurm="7.0")
    report(folder, 1, "user", slurm="6.0")
    older = JobStart(job="7", restart=0, nodes="n[1-2]", continues=False, step=0, time=1.0)
    say(folder, "srun: error: n2: task 1: Killed", start=older)
    say(folder, "step 9")
    assert cause(folder) is None
    assert logs.log_of_start(folder, start=START) == [" on n[1-2], today", "step 9"]


def test_a_report_that_was_cut_off_is_passed_over(folder: RunFolder) -> None:
    folder.error_of(0).write_text('{"rank": 0, "ki')
    assert cause(folder) is None


def test_a_run_that_was_asked_to_end_has_no_error(folder: RunFolder) -> None:
    report(folder, 0, "saved")
    assert cause(folder) is None
    assert logs.asked_to_end(folder, start=START) == "saved of 0"
    report(folder, 0, "saved", slurm="7.0")
    assert logs.asked_to_end(folder, start=START) is None


def test_earlier_reports_are_set_aside(folder: RunFolder) -> None:
    report(folder, 3, "defect")
    folder.stacks_of(3).write_text("")
    folder.stacks_of(4).write_text("Thread 1")
    logs.set_aside(folder, start=START)
    assert cause(folder) is None
    kept = sorted(path.name for path in (folder.logs / "earlier" / "7.1").iterdir())
    assert kept == ["rank_3.error.json", "rank_4.stacks.txt"]
    assert list(folder.logs.glob("rank_*")) == []


def test_all_starts_are_shown_with_their_ends(folder: RunFolder) -> None:
    note_start(folder.jobs, start=START)
    report(folder, 1, "defect")
    assert logs.timeline(logs.read_logs(folder.root).history)[0].endswith(
        "job 7 restart 1 on n[1-2] from step 8: runs, or was lost with its node"
    )
    note_end(folder.jobs, job="7", restart=1, exit_code=1, why="ValueError: defect of 1 (rank 1)")
    found = logs.read_logs(folder.root)
    assert logs.timeline(found.history)[0].endswith(
        "from step 8: [1] ValueError: defect of 1 (rank 1)"
    )
    assert found.cause is not None


def test_a_local_run_has_a_first_error_too(folder: RunFolder) -> None:
    report(folder, 1, "peer", slurm=None)
    report(folder, 0, "user", slurm=None)
    found = logs.read_logs(folder.root)
    assert found.cause is not None
    assert (found.cause.exit_code, found.cause.text) == (2, "Error: user of 0")


def test_a_folder_that_was_never_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no logs: it is no folder of a run that was started"):
        logs.read_logs(tmp_path)
