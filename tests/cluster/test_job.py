# SPDX-License-Identifier: Apache-2.0
"""What the batch script is told: whether the ranks may start, why they ended, what to do now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.cluster import job
from megacpt.cluster.restarts import history
from megacpt.config.compose import write_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.config.sections import ClusterConfig, RunConfig, ScheduleConfig, SlurmConfig
from megacpt.preflight import bad_nodes
from tests.checkpoint import small

STEPS = 8


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "law")
    folder.logs.mkdir(parents=True)
    config = RunConfig(
        run_dir=str(folder.root),
        schedule=ScheduleConfig(steps=STEPS),
        cluster=ClusterConfig(slurm=SlurmConfig(max_restarts_without_progress=1)),
    )
    write_run_yaml(config, path=folder.run_yaml)
    return folder


def call(verb: str, folder: RunFolder, *words: str, number: int = 7, restart: int = 0) -> int:
    own = [str(folder.root), "--job", str(number), "--restart", str(restart)]
    return job.main([verb, *own, *words])


def checkpoint(folder: RunFolder, step: int) -> None:
    root = folder.root / "checkpoints"
    small.write(root, step=step, start=small.claim(root, from_step=0))


def report(
    folder: RunFolder, rank: int, *, code: int, text: str, kind: str = "user", slurm: str = "7.0"
) -> None:
    record = {"rank": rank, "slurm": slurm, "time": 1.0, "kind": kind, "exit_code": code}
    folder.error_of(rank).write_text(json.dumps({**record, "message": text, "traceback": text}))


def last_why(folder: RunFolder) -> str:
    return history(folder.jobs).ends[-1].why


def test_starts_are_counted_and_refused(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("begin", folder, "--nodes", "n[1-2]") == 0
    assert "== job 7, start 1 on n[1-2], " in capsys.readouterr().out
    assert call("begin", folder, "--continues", restart=1) == 0
    assert call("begin", folder, "--continues", restart=2) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: 2 starts in a row have left no checkpoint newer than step 0, an")
    checkpoint(folder, 4)
    assert call("begin", folder, "--continues", restart=2) == 0
    assert [start.step for start in history(folder.jobs).starts] == [0, 0, 4]


def test_a_person_may_always_start(folder: RunFolder) -> None:
    assert [call("begin", folder, number=n) for n in range(4)] == [0] * 4


def test_a_finished_run_is_not_started(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(folder, STEPS)
    assert call("begin", folder, "--continues") == job.FINISHED
    assert "All 8 steps" in capsys.readouterr().out
    assert history(folder.jobs).starts == ()


def test_a_run_that_is_through(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    call("begin", folder)
    checkpoint(folder, STEPS)
    assert call("end", folder, "--code", "0") == 0
    assert capsys.readouterr().out.endswith("\nTrained 8 steps.\n")
    assert last_why(folder) == "Trained 8 steps."


@pytest.mark.parametrize(
    ("reason", "code"),
    [("usr1", 85), ("time_limit", 85), ("term", 85), ("save_and_exit", 0), ("stop", 0)],
)
def test_who_has_asked_decides_whether_it_goes_on(
    folder: RunFolder, reason: str, code: int
) -> None:
    """In the run's own words."""
    from megacpt.train.requests import Request

    call("begin", folder)
    report(folder, 0, code=85, text=f"Ended after step 4, because {Request[reason].reason}.")
    assert call("end", folder, "--code", "0") == code


def test_a_run_that_was_extended_while_it_ran_goes_on(folder: RunFolder) -> None:
    call("begin", folder)
    checkpoint(folder, 4)
    assert call("end", folder, "--code", "0") == 85
    assert last_why(folder) == "Trained to step 4; the run has 8 by now and goes on."


def test_an_end_without_a_word_is_a_defect(folder: RunFolder) -> None:
    call("begin", folder)
    assert call("end", folder, "--code", "0") == 1
    assert last_why(folder) == "Error: the ranks ended at step 0 of 8 and left no message."


def test_the_cause_counts_and_not_what_srun_has_killed(folder: RunFolder) -> None:
    call("begin", folder)
    report(folder, 0, code=75, kind="peer", text="lost")
    report(folder, 1, code=1, kind="defect", text="Traceback\nValueError: no\n")
    assert call("end", folder, "--code", "137") == 1
    assert last_why(folder) == "ValueError: no (rank 1)"


@pytest.mark.parametrize(
    ("srun", "code", "why"),
    [
        (137, 75, "Error: the ranks were ended from outside (SIGKILL)."),
        (143, 75, "Error: the ranks were ended from outside (SIGTERM)."),
        (255, 75, "Error: the ranks were ended from outside (exit code 255)."),
        (127, 127, "Error: the ranks ended with exit code 127 and left no message."),
    ],
)
def test_an_end_that_left_no_report(folder: RunFolder, srun: int, code: int, why: str) -> None:
    call("begin", folder)
    assert call("end", folder, "--code", str(srun)) == code
    assert last_why(folder) == why


def test_a_job_whose_node_was_cut_off_ends_alone(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm has started the same job elsewhere, so it must not be put into the queue again."""
    call("begin", folder, "--nodes", "n[1-2]")
    call("begin", folder, "--nodes", "n[2-3]", "--continues", restart=1)
    assert call("end", folder, "--code", "75") == 76
    said = capsys.readouterr().err
    assert said == "Error: job 7 has been superseded by a start on n[2-3]; it ends here.\n"
    assert history(folder.jobs).ends == ()


def test_bad_nodes_are_left_out_as_far_as_there_are_spares(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    call("begin", folder)
    report(folder, 0, code=69, text="n3 is bad")
    why = {"n9": ["slow"], "n3": ["full"], "n1": ["old"]}
    bad_nodes.record(folder.root, bad=why, good=[], time=1.0, job="7")
    capsys.readouterr()
    for spares, expected in (("1", "n3\n"), ("2", "n3,n1\n")):
        assert call("without", folder, "--nodes", "n1,n2,n3", "--spares", spares) == 0
        assert capsys.readouterr().out == expected
    # The report of the first try is no report of the next.
    assert not folder.error_of(0).exists()
