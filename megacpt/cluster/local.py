# SPDX-License-Identifier: Apache-2.0
"""Start all ranks of a run on this machine, and end them all with one cause when one dies.

A failing rank leaves ``RUN_DIR/logs/rank_N.error.json``. The others lose their peer and fail too;
of all the deaths the launcher shows one: a rank's own error before a lost connection, then the
earliest.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from megacpt.config.paths import RunFolder
from megacpt.config.sections import RunConfig
from megacpt.device.environment import die_with_parent
from megacpt.device.variables import missing_variables
from megacpt.errors import EnvironmentError_

POLL_S = 0.02
CULPRIT_WAIT_S = 1.0
"""After a lost connection: how long the rank that caused it may take to end by itself."""
TERM_WAIT_S = 2.0


@dataclass(slots=True, kw_only=True)
class _Rank:
    rank: int
    process: subprocess.Popen[bytes]
    ended_at: float | None = None
    stopped_by: tuple[int, ...] = ()
    """Signals the launcher itself has sent; such an end is no cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why a rank ended, in the words to show."""

    rank: int
    time: float
    is_peer: bool
    exit_code: int
    text: str


def run_local(config: RunConfig, *, mode: str = "train") -> int:
    """Run all ranks of ``config`` here; returns the exit code, after the one message of a failure.

    ``RUN_DIR/run.yaml`` must exist: the ranks read nothing else.
    """
    return run_ranks(
        [sys.executable, "-m", "megacpt.train.worker", config.run_dir, "--mode", mode],
        num_ranks=config.parallel.num_ranks,
        folder=RunFolder(Path(config.run_dir)),
        variables=missing_variables(config),
    )


def run_ranks(
    command: Sequence[str],
    *,
    num_ranks: int,
    folder: RunFolder,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run ``command`` once a rank, until all have ended well or one has died.

    ``variables``: what all ranks have in their environment beside the launcher's own.
    """
    _forget_old_errors(folder)
    command = ["env", *(f"{name}={value}" for name, value in (variables or {}).items()), *command]
    with _started(command, num_ranks=num_ranks, folder=folder) as ranks:
        _wait_for_end(ranks, folder=folder)
        _stop(ranks)
    deaths = [death for rank in ranks if (death := _death(rank, folder=folder)) is not None]
    if not deaths:
        return 0
    cause = min(deaths, key=lambda death: (death.is_peer, death.time))
    sys.stderr.write(cause.text.rstrip("\n") + "\n")
    return cause.exit_code


@contextmanager
def _started(command: Sequence[str], *, num_ranks: int, folder: RunFolder) -> Iterator[list[_Rank]]:
    """The running ranks; whatever happens inside, none outlives the block."""
    ranks: list[_Rank] = []
    port = _free_port()
    try:
        for rank in range(num_ranks):
            process = _start(command, rank=rank, num_ranks=num_ranks, port=port, folder=folder)
            ranks.append(_Rank(rank=rank, process=process))
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
    # env(1) adds to the inherited environment and becomes the rank itself by exec.
    full = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
    with ExitStack() as files:
        log = files.enter_context(folder.log_of(rank).open("ab")) if rank > 0 else None
        return subprocess.Popen(
            full,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C reaches the launcher alone, and a rank's helper processes end with it.
            process_group=0,
            preexec_fn=die_with_parent,
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _forget_old_errors(folder: RunFolder) -> None:
    try:
        folder.logs.mkdir(parents=True, exist_ok=True)
        for old in folder.logs.glob("rank_*.error.json"):
            old.unlink()
    except OSError as error:
        raise EnvironmentError_(
            f"{folder.logs} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space (run_dir=FOLDER)."
        ) from error


def _wait_for_end(ranks: Sequence[_Rank], *, folder: RunFolder) -> None:
    """Return when all ranks have ended, or one has died and its cause is known."""
    give_up_at: float | None = None
    while any(rank.ended_at is None for rank in ranks):
        _note_ends(ranks)
        deaths = [death for rank in ranks if (death := _death(rank, folder=folder)) is not None]
        if deaths and give_up_at is None:
            give_up_at = time.time() + CULPRIT_WAIT_S
        if any(not death.is_peer for death in deaths):
            return
        if give_up_at is not None and time.time() > give_up_at:
            return
        time.sleep(POLL_S)


def _note_ends(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        if rank.ended_at is None and _has_ended(rank.process.pid):
            rank.ended_at = time.time()
            # Helpers it leaves behind would keep our output open. Not reaped yet, the rank still
            # owns its process group, so no stranger can have its number.
            os.killpg(rank.process.pid, signal.SIGKILL)
            rank.process.wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _stop(ranks: Sequence[_Rank]) -> None:
    """TERM to those that still run, KILL to those that stay."""
    for number, wait_s in ((signal.SIGTERM, TERM_WAIT_S), (signal.SIGKILL, TERM_WAIT_S)):
        _note_ends(ranks)
        for rank in ranks:
            if rank.ended_at is None:
                rank.stopped_by += (number,)
                rank.process.send_signal(number)
        stop_at = time.time() + wait_s
        while any(rank.ended_at is None for rank in ranks) and time.time() < stop_at:
            time.sleep(POLL_S)
            _note_ends(ranks)


def _death(rank: _Rank, *, folder: RunFolder) -> Death | None:
    """None where the rank still runs, ended well, or was ended by the launcher."""
    code = rank.process.returncode
    if rank.ended_at is None or code in (None, 0):
        return None
    report = folder.error_of(rank.rank)
    if report.exists():
        return _reported(json.loads(report.read_text(encoding="utf-8")), rank=rank.rank)
    if -code in rank.stopped_by:
        return None
    return Death(
        rank=rank.rank,
        time=rank.ended_at,
        is_peer=False,
        exit_code=1,
        text=_without_report(rank, log=folder.log_of(rank.rank)),
    )


def _reported(report: dict[str, str], *, rank: int) -> Death:
    is_user = report["kind"] == "user"
    text = f"Error: {report['message']}" if is_user else f"{report['traceback']}(rank {rank})"
    return Death(
        rank=rank,
        time=float(report["time"]),
        is_peer=report["kind"] == "peer",
        exit_code=2 if is_user else 1,
        text=text,
    )


def _without_report(rank: _Rank, *, log: Path) -> str:
    code = rank.process.returncode
    if code >= 0:
        end = f"ended with exit code {code} and left no message"
    else:
        end = f"was killed by {signal.Signals(-code).name}"
    memory = " (the system does that when memory runs out)" if -code == signal.SIGKILL else ""
    see = f" Its output is in {log}." if rank.rank > 0 else ""
    return f"Error: rank {rank.rank} {end}{memory}; the run has ended.{see}"
