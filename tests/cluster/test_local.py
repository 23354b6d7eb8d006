# SPDX-License-Identifier: Apache-2.0
"""The launcher with ranks that are small scripts: one cause, the right exit code, no survivor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from megacpt.cluster.local import SAVES, run_ranks
from megacpt.config.paths import RunFolder
from megacpt.errors import EnvironmentError_

PRELUDE = """
import json, os, pathlib, sys, time
rank = int(os.environ["RANK"])
folder = pathlib.Path(sys.argv[1])
(folder / f"pid_{rank}").write_text(str(os.getpid()))

def fail(kind, message, at=None):
    code = dict(user=2, defect=1, peer=75, hang=75, request=85)[kind]
    report = dict(rank=rank, time=at or time.time(), kind=kind, message=message, exit_code=code,
                  traceback=f"Traceback (most recent call last):\\nRuntimeError: {message}\\n")
    (folder / "logs" / f"rank_{rank}.error.json").write_text(json.dumps(report))
    os._exit(code)
"""


def run(script: str, *, folder: Path, num_ranks: int) -> int:
    code = PRELUDE + textwrap.dedent(script)
    command = [sys.executable, "-c", code, str(folder)]
    return run_ranks(command, num_ranks=num_ranks, folder=RunFolder(folder))


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("pid_*") if path.read_text()]


def is_alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ranks_get_their_place_and_all_end_well(tmp_path: Path) -> None:
    script = """
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    (folder / f"env_{rank}.json").write_text(json.dumps({n: os.environ[n] for n in names}))
    print("hello from", rank)
    """
    assert run(script, folder=tmp_path, num_ranks=3) == 0
    seen = [json.loads((tmp_path / f"env_{rank}.json").read_text()) for rank in range(3)]
    assert [s["RANK"] for s in seen] == [s["LOCAL_RANK"] for s in seen] == ["0", "1", "2"]
    assert {s["WORLD_SIZE"] for s in seen} == {s["LOCAL_WORLD_SIZE"] for s in seen} == {"3"}
    assert len({(s["MASTER_ADDR"], s["MASTER_PORT"]) for s in seen}) == 1
    assert (tmp_path / "logs" / "rank_2.log").read_text() == "hello from 2\n"
    assert not (tmp_path / "logs" / "rank_0.log").exists()


def test_a_users_error_is_shown_once_and_ends_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started_at = time.monotonic()
    script = "fail('user', 'no such file') if rank == 1 else time.sleep(60)"
    assert run(script, folder=tmp_path, num_ranks=3) == 2
    assert time.monotonic() - started_at < 5
    assert capfd.readouterr().err == "Error: no such file\n"
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_the_cause_is_shown_not_the_lost_connections(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
    if rank == 2:
        time.sleep(0.4)
        fail("defect", "the cause")
    fail("peer", "Connection closed by peer")
    """
    assert run(script, folder=tmp_path, num_ranks=3) == 1
    error = capfd.readouterr().err
    assert error.count("Traceback") == 1
    assert "the cause" in error
    assert "rank 2" in error
    assert "Connection closed" not in error


def test_the_earliest_of_two_causes_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "fail('defect', f'cause {rank}', at=100.0 - rank)"
    assert run(script, folder=tmp_path, num_ranks=2) == 1
    assert capfd.readouterr().err.count("Traceback") == 1


def test_lost_connections_alone_are_shown_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "fail('peer', 'Timed out waiting', at=100.0 + rank)"
    assert run(script, folder=tmp_path, num_ranks=2) == os.EX_TEMPFAIL
    assert capfd.readouterr().err.count("Timed out waiting") == 1


def test_a_rank_killed_by_a_signal_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
    if rank == 1:
        os.kill(os.getpid(), 9)
    time.sleep(0.3)
    fail("peer", "Connection closed by peer")
    """
    assert run(script, folder=tmp_path, num_ranks=2) == os.EX_TEMPFAIL
    error = capfd.readouterr().err
    assert error.startswith("Error: rank 1 was killed by SIGKILL (")
    assert error.count("\n") == 1


def test_a_rank_that_ends_without_a_word_points_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("sys.exit(7 * rank)", folder=tmp_path, num_ranks=2) == 1
    error = capfd.readouterr().err
    assert "rank 1 ended with exit code 7" in error
    assert str(tmp_path / "logs" / "rank_1.log") in error


HANG = """
import faulthandler, signal
stacks = (folder / "logs" / f"rank_{rank}.stacks.txt").open("w")
faulthandler.register(signal.SIGQUIT, file=stacks)

def hang(last_sign):
    faulthandler.dump_traceback(stacks)
    fail("hang", f"last sign at {last_sign}", at=last_sign)
"""


def test_a_stopped_rank_is_blamed_for_the_hang_and_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)
    hang(100.0 + rank)
    """
    code = run(HANG + textwrap.dedent(script), folder=tmp_path, num_ranks=3)
    assert code == os.EX_TEMPFAIL
    error = capfd.readouterr().err
    assert "Likely to blame: rank 1 (process" in error
    assert "is stopped" in error
    assert str(tmp_path / "logs" / "rank_*.stacks*.txt") in error
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_of_ranks_that_all_hang_the_one_silent_longest_is_blamed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run(HANG + "hang(100.0 - rank)", folder=tmp_path, num_ranks=3)
    assert code == os.EX_TEMPFAIL
    assert "Likely to blame: rank 2, which has the oldest last sign" in capfd.readouterr().err


def test_a_rank_that_outlives_the_lost_connections_of_all_others_is_asked_and_blamed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The collectives gave up before any watchdog."""
    script = """
    if rank == 0:
        time.sleep(60)
    time.sleep(0.5)
    fail("peer", "Timed out waiting")
    """
    code = run(HANG + textwrap.dedent(script), folder=tmp_path, num_ranks=2)
    assert code == os.EX_TEMPFAIL
    assert "Likely to blame: rank 0 (process" in capfd.readouterr().err
    assert "most recent call first" in (tmp_path / "logs" / "rank_0.stacks.txt").read_text()


def test_stacks_without_a_report_are_a_hang(tmp_path: Path) -> None:
    """faulthandler's own timer ends a rank whose interpreter is stuck."""
    script = HANG + "faulthandler.dump_traceback(stacks)\nos._exit(1)\n"
    assert run(script, folder=tmp_path, num_ranks=1) == os.EX_TEMPFAIL


def test_a_rank_that_ignores_term_is_killed(tmp_path: Path) -> None:
    script = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"ready_{rank}").touch()
    if rank == 1:
        while not (folder / "ready_0").exists():
            time.sleep(0.01)
        fail("user", "stop")
    time.sleep(60)
    """
    started_at = time.monotonic()
    assert run(script, folder=tmp_path, num_ranks=2) == 2
    assert time.monotonic() - started_at < 8
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_helpers_that_a_rank_leaves_behind_end_with_it(tmp_path: Path) -> None:
    script = """
    import subprocess
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / f"pid_helper_{rank}").write_text(str(helper.pid))
    """
    assert run(script, folder=tmp_path, num_ranks=2) == 0
    assert len(pids(tmp_path)) == 4
    _wait_until(lambda: not any(is_alive(pid) for pid in pids(tmp_path)))


def test_errors_of_an_earlier_start_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank_0.error.json").write_text("old")
    assert run("pass", folder=tmp_path, num_ranks=1) == 0
    assert not list((tmp_path / "logs").glob("*.error.json"))


def test_a_read_only_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentError_, match="cannot be written"):
        run("pass", folder=tmp_path / "file", num_ranks=1)


def launcher(folder: Path, *, script: str = "time.sleep(60)") -> subprocess.Popen[bytes]:
    """A launcher process with two ranks that sleep, its errors in FOLDER/err."""
    code = (
        "import sys, pathlib\n"
        "from megacpt.cluster.local import SAVES, run_ranks\n"
        "from megacpt.config.paths import RunFolder\n"
        f"command = [sys.executable, '-c', {PRELUDE + script!r}, {str(folder)!r}]\n"
        f"folder = RunFolder(pathlib.Path({str(folder)!r}))\n"
        "try:\n"
        "    sys.exit(run_ranks(command, num_ranks=2, folder=folder))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    with (folder / "err").open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=errors)
    _wait_until(lambda: len(pids(folder)) == 2)
    return process


def _wait_until(condition: object, *, timeout_s: float = 10.0) -> None:
    assert callable(condition)
    stop_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop_at, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_the_launcher(tmp_path: Path, number: signal.Signals) -> None:
    process = launcher(tmp_path)
    os.kill(process.pid, number)
    process.wait(timeout=10)
    _wait_until(lambda: not any(is_alive(pid) for pid in pids(tmp_path)))


LISTENS = """
import signal
def save(number, frame):
    time.sleep(SAVE_S)
    fail("request", "saved")
signal.signal(signal.SIGINT, save)
(folder / f"listens_{rank}").touch()
time.sleep(60)
"""


def listening(folder: Path, *, save_s: float) -> subprocess.Popen[bytes]:
    process = launcher(folder, script=LISTENS.replace("SAVE_S", str(save_s)))
    _wait_until(lambda: len(list(folder.glob("listens_*"))) == 2)
    return process


def test_ctrl_c_has_ranks_in_training_save(tmp_path: Path) -> None:
    process = listening(tmp_path, save_s=0.3)
    process.send_signal(signal.SIGINT)
    _wait_until(lambda: SAVES in (tmp_path / "err").read_text(), timeout_s=2)
    assert process.wait(timeout=10) == 130
    assert (tmp_path / "err").read_text() == f"\n{SAVES}\nsaved\n"


def test_a_second_ctrl_c_ends_them_at_once(tmp_path: Path) -> None:
    process = listening(tmp_path, save_s=60)
    process.send_signal(signal.SIGINT)
    _wait_until(lambda: SAVES in (tmp_path / "err").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    _wait_until(lambda: not any(is_alive(pid) for pid in pids(tmp_path)))


def test_ctrl_c_while_they_start_ends_them_at_once(tmp_path: Path) -> None:
    process = launcher(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 130
    assert (tmp_path / "err").read_text() == ""


def test_a_save_that_fails_is_the_end_that_counts(tmp_path: Path) -> None:
    script = LISTENS.replace("SAVE_S", "0").replace('"request", "saved"', '"user", "disk full"')
    process = launcher(tmp_path, script=script)
    _wait_until(lambda: len(list(tmp_path.glob("listens_*"))) == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 2
    assert "Error: disk full" in (tmp_path / "err").read_text()


def test_a_run_in_the_background_of_a_script_ignores_anothers_ctrl_c(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = listening(tmp_path, save_s=0)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)
