# SPDX-License-Identifier: Apache-2.0
"""Start all ranks of a run on this machine, and end them all with one cause when one fails.

A failing rank leaves ``RUN_DIR/logs/rank_N.error.json``. The others lose their peer and fail too;
of all the failures the launcher shows one: a rank's own error before a lost connection, then the
earliest. Where ranks hang, it asks those that have not written where they stand for their stacks,
ends them, and names the likely cause.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from megacpt.checkpoint import folders
from megacpt.cluster.failures import Rank, ask_for_stacks, ending, failures_of
from megacpt.config.paths import RunFolder
from megacpt.device.environment import die_with_parent
from megacpt.device.inherited import of_another_place
from megacpt.device.variables import RunSections, missing_variables
from megacpt.errors import EndedOnRequest, EnvironmentError_

POLL_S = 0.02
CULPRIT_WAIT_S = 1.0
"""How long the rank that caused a lost connection may take to end by itself."""
KILL_WAIT_S = 2.0
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
"""The ranks save and end on these (megacpt.train.requests)."""
SAVES = "Ctrl-C: the run ends its step, saves and stops. Ctrl-C again ends it at once, unsaved."
HANG_WAIT_S = 8.0
"""How long the other ranks may take to find that the run hangs, once one has found it."""


def run_local(run_dir: Path, *, sections: RunSections, mode: str = "train") -> int:
    """Run all ranks of a run here; returns the exit code, after the one message of a failure.

    Its run.yaml must exist: the ranks read nothing else, and ``sections`` are of it. After a hang
    or a killed rank the run is started again, ``cluster.retries`` times at most, while it gets on.
    """
    checkpoints, retries = run_dir / "checkpoints", sections.cluster.retries
    for retry in range(1, retries + 2):
        before = folders.newest(checkpoints)
        code = run_ranks(
            [sys.executable, "-m", "megacpt.train.rank", str(run_dir), "--mode", mode],
            num_ranks=sections.parallel.num_ranks,
            folder=RunFolder(run_dir),
            variables=missing_variables(sections),
        )
        newest = folders.newest(checkpoints)
        if code != os.EX_TEMPFAIL or retry > retries:
            return code
        if newest is None or newest == before:
            sys.stderr.write("No retry: no checkpoint was written since the start before.\n")
            return code
        sys.stderr.write(f"Retry {retry} of {retries}, from {newest}.\n")
        _keep_stacks(RunFolder(run_dir), retry=retry)
        # A rank that no signal ends (it waits for a disk, say) has lost the run all the same.
        mode = "take_over" if mode == "train" else mode
    return code


def _keep_stacks(folder: RunFolder, *, retry: int) -> None:
    """Keep those of the ranks that hung; the next ones write files of their own."""
    for path in folder.logs.glob("rank_*.stacks.txt"):
        if path.stat().st_size > 0:
            path.rename(path.with_name(f"{path.stem}.before_retry_{retry}.txt"))


def run_ranks(
    command: Sequence[str],
    *,
    num_ranks: int,
    folder: RunFolder,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run ``command`` once a rank, until all have ended well or one has failed.

    ``variables``: environment variables of all ranks, added to the launcher's own.
    """
    _forget_old_errors(folder)
    command = ["env", *(f"{name}={value}" for name, value in (variables or {}).items()), *command]
    with (
        _started(command, num_ranks=num_ranks, folder=folder) as ranks,
        _passing_on_signals(ranks) as passed_on,
        _saving_on_interrupt(ranks) as interrupted,
    ):
        _wait_for_end(ranks, folder=folder)
        silent = ask_for_stacks(ranks, folder=folder)
        _stop(ranks)
    failures = failures_of(ranks, folder=folder)
    if not failures:
        return 0
    found = ending(failures, silent=silent, folder=folder)
    sys.stderr.write(found.text.rstrip("\n") + "\n")
    if interrupted and found.exit_code == EndedOnRequest.exit_code:
        raise KeyboardInterrupt
    if passed_on and found.exit_code == os.EX_TEMPFAIL:
        # It came before the ranks listened: a stop that was asked for, and no retry.
        return EndedOnRequest.exit_code
    return found.exit_code


@contextmanager
def _passing_on_signals(ranks: Sequence[Rank]) -> Iterator[list[int]]:
    """The signals that came; in a thread, where there can be no handlers, none."""
    came: list[int] = []

    def pass_on(number: int, *_: object) -> None:
        came.append(number)
        for rank in ranks:
            if rank.ended_at is None:
                rank.process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _saving_on_interrupt(ranks: Sequence[Rank]) -> Iterator[list[int]]:
    """While it is open, the first Ctrl-C asks ranks in training to save and end, and is in the
    list; the second, or the first where there is nothing to save, is a KeyboardInterrupt."""
    came: list[int] = []

    def ask(number: int, *_: object) -> None:
        running = [rank.process for rank in ranks if rank.ended_at is None]
        if came or not all(_listens(process.pid) for process in running):
            raise KeyboardInterrupt
        came.append(number)
        # Not the buffered stream: what was interrupted may be writing to it.
        os.write(sys.stderr.fileno(), f"\n{SAVES}\n".encode())
        for process in running:
            process.send_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    # A shell that starts a command in the background has it ignore Ctrl-C, which is another's.
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield came
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _listens(pid: int) -> bool:
    """Whether a rank, which ignores SIGINT until it trains, would save on it; only Linux knows,
    elsewhere it is said to."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return not Path("/proc/self/status").exists()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1)


@contextmanager
def _started(command: Sequence[str], *, num_ranks: int, folder: RunFolder) -> Iterator[list[Rank]]:
    """The running ranks; whatever happens inside, none outlives the block."""
    ranks: list[Rank] = []
    port = _free_port()
    try:
        for rank in range(num_ranks):
            process = _start(command, rank=rank, num_ranks=num_ranks, port=port, folder=folder)
            ranks.append(Rank(rank=rank, process=process))
        yield ranks
    finally:
        _stop(ranks)


def _start(
    command: Sequence[str], *, rank: int, num_ranks: int, port: int, folder: RunFolder
) -> subprocess.Popen[bytes]:
    variables = {
        "RANK": rank,
        "WORLD_SIZE": num_ranks,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    # env(1) changes the inherited environment and becomes the rank itself by exec.
    unset = [word for name in of_another_place() for word in ("-u", name)]
    full = ["env", *unset, *(f"{name}={value}" for name, value in variables.items()), *command]
    with ExitStack() as files:
        log = files.enter_context(folder.log_of(rank).open("ab")) if rank > 0 else None
        return subprocess.Popen(
            full,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C reaches the launcher alone, and a rank's helper processes end with it.
            process_group=0,
            preexec_fn=_begin_rank,
        )


def _begin_rank() -> None:
    die_with_parent()
    # Python makes a KeyboardInterrupt of it, but in a process that was told to ignore it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _forget_old_errors(folder: RunFolder) -> None:
    try:
        folder.logs.mkdir(parents=True, exist_ok=True)
        for pattern in ("rank_*.error.json", "rank_*.stacks.txt"):
            for old in folder.logs.glob(pattern):
                old.unlink()
    except OSError as error:
        raise EnvironmentError_(
            f"{folder.logs} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space (run_dir=FOLDER)."
        ) from error


def _wait_for_end(ranks: Sequence[Rank], *, folder: RunFolder) -> None:
    """Return when all ranks have ended, or one has failed and its cause is known."""
    failed_at: float | None = None
    while any(rank.ended_at is None for rank in ranks):
        _note_ends(ranks)
        failures = failures_of(ranks, folder=folder)
        if any(failure.is_cause for failure in failures):
            return
        if failures and failed_at is None:
            failed_at = time.time()
        is_hang = any(failure.kind == "hang" for failure in failures)
        wait_s = HANG_WAIT_S if is_hang else CULPRIT_WAIT_S
        if failed_at is not None and time.time() > failed_at + wait_s:
            return
        time.sleep(POLL_S)


def _note_ends(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        if rank.ended_at is None and _has_ended(rank.process.pid):
            rank.ended_at = time.time()
            # Helpers it leaves behind would keep our output open. Not reaped yet, the rank still
            # owns its process group, so no stranger can have its number.
            os.killpg(rank.process.pid, signal.SIGKILL)
            rank.process.wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _stop(ranks: Sequence[Rank]) -> None:
    """Kill those that still run: they wait in a collective for a lost rank; no signal ends that."""
    _note_ends(ranks)
    for rank in ranks:
        if rank.ended_at is None:
            rank.is_stopped_by_launcher = True
            rank.process.kill()
    stop_at = time.time() + KILL_WAIT_S
    while any(rank.ended_at is None for rank in ranks) and time.time() < stop_at:
        time.sleep(POLL_S)
        _note_ends(ranks)
