# SPDX-License-Identifier: Apache-2.0
"""Launched runs on a real Slurm of three nodes: what a run survives, and what ends it.

One run is disturbed in every way, one test after another, and its curve must be that of a run
nobody has touched, bit for bit. The tests of this file share the two and keep their order.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megacpt.checkpoint.folders import newest
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.preflight import bad_nodes
from tests.slurm.launched import EVERY_STEPS, STEPS, Run, launch, megacpt
from tests.slurm.support import Cluster, wait_until

PUBLISH_S = 2.0
"""Far more than the rest of publishing a tiny checkpoint takes."""
pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def failing(cluster: Cluster, folder: Path) -> Run:
    """A rank that dies as it starts, each time; it fails while the run beside it trains."""
    (folder / "failing" / "hooks").mkdir(parents=True)
    (folder / "failing" / "hooks" / "die").touch()
    limit = "cluster.slurm.max_restarts_without_progress=1"
    return launch(cluster, folder / "failing", limit, nodes=1)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, folder: Path, failing: Run) -> Run:
    run = launch(cluster, folder / "undisturbed", "parallel.dp=2")
    run.wait_for_end()
    return run


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, folder: Path, undisturbed: Run) -> Iterator[Run]:
    run = launch(cluster, folder / "disturbed", "parallel.dp=2")
    run.pause_at(6)
    run.wait_for_step(6)
    yield run
    cluster.cancel(run.job)


def goes_on_alike(run: Run, undisturbed: Run, *, starts: int) -> None:
    """The run gets further, by so many starts in all, on the same curve; there it waits."""
    step = run.step + EVERY_STEPS
    run.pause_at(step)
    run.wait_for_start(starts)
    run.wait_for_step(step)
    assert run.losses()[:step] == undisturbed.losses()[:step]
    assert run.starts() == starts, run.log()


def test_a_launched_run_finishes(undisturbed: Run) -> None:
    assert f"Trained {STEPS} steps." in undisturbed.log()
    assert len(undisturbed.losses()) == STEPS
    assert [end["exit_code"] for end in undisturbed.jobs("end")] == [0]
    shown = megacpt(undisturbed.cluster, "logs", str(undisturbed.run_dir))
    assert f"from step 0: [0] Trained {STEPS} steps." in shown


def test_usr1_saves_requeues_and_goes_on(disturbed: Run, undisturbed: Run) -> None:
    """What --signal=B:USR1@N sends before the limit."""
    starts = disturbed.starts()
    disturbed.cluster.run("scancel", "--batch", "--signal=USR1", disturbed.job)
    goes_on_alike(disturbed, undisturbed, starts=starts + 1)
    assert "saved, because SIGUSR1 came" in disturbed.jobs("end")[-1]["why"]


def test_requeued_by_hand(disturbed: Run, undisturbed: Run) -> None:
    starts = disturbed.starts()
    disturbed.cluster.run("scontrol", "requeue", disturbed.job)
    goes_on_alike(disturbed, undisturbed, starts=starts + 1)


def crash_and_boot(run: Run) -> None:
    """Of the nodes that the run is on: it may have gone on before the one that crashed last was
    back."""
    node = run.cluster.other_host(run.job)
    run.cluster.sandbox("crash", node)
    run.cluster.sandbox("boot", node)


def test_a_node_crashes_and_boots(disturbed: Run, undisturbed: Run) -> None:
    starts = disturbed.starts()
    crash_and_boot(disturbed)
    goes_on_alike(disturbed, undisturbed, starts=starts + 1)


def test_a_node_crashes_during_a_save(disturbed: Run, undisturbed: Run) -> None:
    """The writer is killed by Slurm, before it has published what both nodes have written."""
    starts = disturbed.starts()
    disturbed.hook("hold_any")
    disturbed.pause_at(disturbed.step + 2 * EVERY_STEPS)
    disturbed.wait_until_held()
    unfinished = disturbed.partials[0].name.split(".")[1]
    crash_and_boot(disturbed)
    wait_until(lambda: disturbed.state == "PENDING", what="the requeue", log=disturbed.log)
    for hook in ("hold_any", "held", "woken"):
        disturbed.unhook(hook)
    goes_on_alike(disturbed, undisturbed, starts=starts + 1)
    went_on_from = re.findall(r"resumed from \S+/(step_\d+)", disturbed.log())[-1]
    assert went_on_from < unfinished


def test_slurms_controller_dies_and_comes_back(disturbed: Run, undisturbed: Run) -> None:
    starts = disturbed.starts()
    disturbed.cluster.sandbox("ctld-kill")
    goes_on_alike(disturbed, undisturbed, starts=starts)
    disturbed.cluster.sandbox("ctld-start")
    wait_until(lambda: disturbed.state == "RUNNING", what="the job")


def test_a_cut_off_node_writes_nothing_more(disturbed: Run, undisturbed: Run) -> None:
    """The old first rank lives on, about to publish, while the new one trains and publishes."""
    run = disturbed
    starts, old = run.starts(), run.cluster.batch_host(run.job)
    run.hook(f"hold_{old}")
    run.pause_at(run.step + 2 * EVERY_STEPS)
    run.wait_until_held()
    unfinished = run.partials[0].name.split(".")[1]
    with run.cluster.cut_off(old):
        goes_on_alike(run, undisturbed, starts=starts + 1)
        goes_on_alike(run, undisturbed, starts=starts + 1)
        published = settled(run)
        assert unfinished in published
        run.unhook(f"hold_{old}")
        wait_until((run.run_dir / "hooks" / "woken").exists, what="the old first rank")
        assert settled(run) == published
    run.unhook("pause_at")
    run.wait_for_end()
    assert run.losses() == undisturbed.losses()
    # The old srun, back on the network, may end its step: by a number that the new one has, too.
    assert run.starts() in (starts + 1, starts + 2), run.log()
    folder = newest(run.run_dir / "checkpoints")
    assert folder is not None
    last = CheckpointManifest.read(folder)
    assert (last.step, last.start) == (STEPS, run.starts())
    assert run.jobs("end")[-1]["exit_code"] == 0


def settled(run: Run) -> dict[str, int]:
    """The checkpoints and when each was last written to, once those that wait have got through."""
    time.sleep(PUBLISH_S)
    folders = (run.run_dir / "checkpoints").glob("step_*")
    return {folder.name: folder.stat().st_ctime_ns for folder in folders}


def test_a_rank_that_raises_ends_the_job_with_its_traceback(cluster: Cluster, folder: Path) -> None:
    """On the two nodes that are left once the preflight has found one of three bad."""
    other = folder / "raising" / "hooks" / "path_node2" / "numpy-1.0.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.0\n")
    run = launch(cluster, folder / "raising", "parallel.dp=2", "cluster.slurm.spare_nodes=1")
    run.pause_at(3)
    run.wait_for_step(3)
    run.hook("raise_1")
    assert set(re.findall(r"node\d", (run.run_dir / "preflight.json").read_text())) == {
        *("node1", "node3")
    }
    assert "node2: numpy: 1.0.0 (wanted: " in run.log()
    assert bad_nodes.hosts_to_exclude(run.run_dir) == ["node2"]
    run.unhook("pause_at")
    raised_at = time.monotonic()
    run.wait_for_end()
    assert time.monotonic() - raised_at < 10
    log = run.log()
    assert re.findall(r"^(\w+Error: .*)\n\(rank (\d)\)", log, re.MULTILINE) == [
        ("ArithmeticError: the hook of this rank was pulled", "1")
    ]
    assert log.count("Traceback") == 1
    assert run.starts() == 1
    shown = megacpt(cluster, "logs", str(run.run_dir))
    assert "ArithmeticError: the hook of this rank was pulled\n(rank 1)" in shown


def test_a_run_that_fails_at_once_is_not_requeued_for_ever(failing: Run) -> None:
    failing.wait_for_end()
    assert [end["exit_code"] for end in failing.jobs("end")] == [75, 75]
    assert "2 starts in a row have left no checkpoint newer than step 0" in failing.log()
    assert "Killed" in failing.jobs("end")[0]["why"]


def test_a_job_of_more_weight_takes_the_nodes(
    cluster: Cluster, folder: Path, undisturbed: Run
) -> None:
    """Slurm preempts the run, which saves, waits in the queue and goes on."""
    words = ("cluster.slurm.partition=spot", "cluster.slurm.exclusive=false")
    run = launch(cluster, folder / "preempted", "parallel.dp=2", *words)
    run.pause_at(6)
    run.wait_for_step(6)
    all_cores = ("--partition=main", "--nodes=3", "--cpus-per-task=64", "--output=/dev/null")
    other = cluster.submit(*all_cores, "--wrap=sleep 1")
    wait_until(lambda: run.state != "RUNNING", what="the preemption", log=run.log)
    run.unhook("pause_at")
    cluster.wait_for(other)
    run.wait_for_end()
    assert run.losses() == undisturbed.losses()
    assert run.starts() == 2
    assert "saved, because SIGTERM came" in run.jobs("end")[0]["why"]


@pytest.fixture(scope="module")
def limited(cluster: Cluster, folder: Path, undisturbed: Run) -> Run:
    """A job of two minutes, in which it does not get through. It runs beside the next test.

    Slurm may send the signal up to a minute early. A start takes less than the minute before that,
    in which the signal would be ignored and the clock end the run.
    """
    (folder / "limited" / "hooks").mkdir(parents=True)
    (folder / "limited" / "hooks" / "slow").write_text("2")
    limits = ("cluster.slurm.time=00:02:00", "cluster.slurm.signal_seconds=20")
    # Else it would look at the clock itself, and be faster.
    own = ("checkpoint.save_before_end_s=1", "parallel.dp=2")
    return launch(cluster, folder / "limited", *limits, *own, nodes=1)


def test_a_chain_hands_over(cluster: Cluster, folder: Path, undisturbed: Run, limited: Run) -> None:
    """One job runs and one is queued; the run's end takes the queued one away."""
    run = launch(cluster, folder / "chain", "parallel.dp=2", "cluster.slurm.chain=true")
    run.pause_at(6)
    run.wait_for_step(6)
    name = cluster.jobs(run.job, show="%j")[0]
    assert states(cluster, name) == ["PENDING", "RUNNING"]
    cluster.run("scancel", "--batch", "--signal=USR1", run.job)
    run.unhook("pause_at")
    wait_until(lambda: not states(cluster, name), what="the end of all jobs", log=run.log)
    first, second = run.jobs("start")
    assert first["job"] != second["job"]
    assert second["continues"]
    assert run.losses() == undisturbed.losses()


def test_a_time_limit_runs_out(limited: Run, undisturbed: Run) -> None:
    wait_until(lambda: limited.jobs("end"), what="the end of the first job", log=limited.log)
    limited.unhook("slow")
    limited.wait_for_end()
    assert limited.losses() == undisturbed.losses()
    # One more on a machine that is so slow that the second minute is too short, too.
    assert limited.starts() >= 2
    assert "saved, because SIGUSR1 came" in limited.jobs("end")[0]["why"]


def states(cluster: Cluster, name: str) -> list[str]:
    return sorted(cluster.run("squeue", "-h", f"--name={name}", "-o", "%T").split())
