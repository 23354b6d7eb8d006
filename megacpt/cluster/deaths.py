# SPDX-License-Identifier: Apache-2.0
"""Why ranks have ended, or have not: of all their reports the one to show.

A rank's own error counts before a lost connection, which is a consequence. Where the run hangs,
ranks that can still run report it themselves, with the time of their last sign of life; one that
does not is the likelier cause.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.config.paths import RunFolder

STACKS_WAIT_S = 1.0
ORDER = ("user", "defect", "killed", "hang", "request", "peer")
"""Which of several deaths is the cause, whichever came first."""


@dataclass(slots=True, kw_only=True)
class Rank:
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
    kind: str
    """``user``, ``defect``, ``peer`` (another rank went first), ``hang``, ``killed``, or
    ``request``: the run was asked to end."""
    exit_code: int
    text: str

    @property
    def is_lasting(self) -> bool:
        """No consequence of another death, and no time to be given to others."""
        return self.kind not in ("peer", "hang", "request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the launcher says and ends with."""

    text: str
    exit_code: int


def verdict(deaths: Sequence[Death], *, silent: Sequence[Silent], folder: RunFolder) -> Verdict:
    cause = min(deaths, key=lambda death: (ORDER.index(death.kind), death.time))
    # Lost connections of all others, while one still runs, are its doing.
    if cause.kind == "hang" or (cause.kind == "peer" and silent):
        text = _hang_text(cause, silent=silent, folder=folder)
        return Verdict(text=text, exit_code=os.EX_TEMPFAIL)
    return Verdict(text=cause.text, exit_code=cause.exit_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A rank that neither ended nor wrote its stacks when the others did."""

    rank: int
    process: int
    is_stopped: bool
    has_answered: bool
    """It wrote its stacks when the launcher asked for them."""


def ask_for_stacks(ranks: Sequence[Rank], *, folder: RunFolder) -> list[Silent]:
    """Of the ranks that still run after others died of a hang or a lost connection."""
    deaths = deaths_of(ranks, folder=folder)
    if not deaths or any(death.is_lasting for death in deaths):
        return []
    asked = [rank for rank in ranks if rank.ended_at is None]
    stopped = {rank.rank: _is_stopped(rank.process.pid) for rank in asked}
    for rank in asked:
        if not stopped[rank.rank]:
            rank.process.send_signal(signal.SIGQUIT)
    if asked:
        time.sleep(STACKS_WAIT_S)
    return [
        Silent(
            rank=rank.rank,
            process=rank.process.pid,
            is_stopped=stopped[rank.rank],
            has_answered=_has_stacks(rank.rank, folder=folder),
        )
        for rank in asked
    ]


def _is_stopped(process: int) -> bool:
    """By SIGSTOP, a debugger or job control; only Linux says so."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "t")


def _has_stacks(rank: int, *, folder: RunFolder) -> bool:
    path = folder.stacks_of(rank)
    return path.exists() and path.stat().st_size > 0


def _hang_text(cause: Death, *, silent: Sequence[Silent], folder: RunFolder) -> str:
    """``cause`` is the rank whose last sign of life is the oldest, of those that still could say
    so; one that could not say it is more likely to blame."""
    if silent:
        worst = min(silent, key=lambda rank: (not rank.is_stopped, rank.has_answered))
        blamed = f"rank {worst.rank} (process {worst.process})"
        if worst.is_stopped:
            why = "is stopped (SIGSTOP or a debugger) and could not write its stacks"
        elif worst.has_answered:
            why = "went on without noticing that the others waited in vain"
        else:
            why = "did not respond"
    else:
        blamed, why = f"rank {cause.rank}", f"has the oldest last sign of life: {cause.text}"
    return (
        f"Error: the run hung and was ended. Likely to blame: {blamed}, which {why}.\n"
        f"Where each thread of the others stood: {folder.logs}/rank_*.stacks*.txt\n"
        "Start the same command again: it goes on from the last checkpoint (cluster.retries=N "
        "does so by itself)."
    )


def deaths_of(ranks: Sequence[Rank], *, folder: RunFolder) -> list[Death]:
    return [death for rank in ranks if (death := _death_of(rank, folder=folder)) is not None]


def _death_of(rank: Rank, *, folder: RunFolder) -> Death | None:
    """None where the rank still runs, ended well, or was ended by the launcher."""
    code = rank.process.returncode
    if rank.ended_at is None or code in (None, 0):
        return None
    report = folder.error_of(rank.rank)
    if report.exists():
        return reported(json.loads(report.read_text(encoding="utf-8")), rank=rank.rank)
    if -code in rank.stopped_by:
        return None
    return Death(
        rank=rank.rank,
        time=rank.ended_at,
        kind=_kind_without_report(rank, folder=folder),
        exit_code=1 if code > 0 else os.EX_TEMPFAIL,
        text=_without_report(rank, folder=folder),
    )


def _kind_without_report(rank: Rank, *, folder: RunFolder) -> str:
    """faulthandler's own timer leaves stacks but no report."""
    if rank.process.returncode < 0:
        return "killed"
    return "hang" if _has_stacks(rank.rank, folder=folder) else "defect"


def reported(report: dict[str, Any], *, rank: int) -> Death:
    """What ``RUN_DIR/logs/rank_N.error.json`` says, as the rank itself has written it."""
    texts = {"user": f"Error: {report['message']}", "hang": report["message"]}
    texts["request"] = report["message"]
    return Death(
        rank=rank,
        time=float(report["time"]),
        kind=report["kind"],
        exit_code=report["exit_code"],
        text=texts.get(report["kind"]) or f"{report['traceback']}(rank {rank})",
    )


def _without_report(rank: Rank, *, folder: RunFolder) -> str:
    code = rank.process.returncode
    if code >= 0:
        end = f"ended with exit code {code} and left no message"
    else:
        end = f"was killed by {signal.Signals(-code).name}"
    memory = " (the system does that when memory runs out)" if -code == signal.SIGKILL else ""
    see = f" Its output is in {folder.log_of(rank.rank)}." * (rank.rank > 0)
    if _has_stacks(rank.rank, folder=folder):
        see += f" Where it stood: {folder.stacks_of(rank.rank)}."
    again = " Start the same command again: it goes on from the last checkpoint." * (code < 0)
    return f"Error: rank {rank.rank} {end}{memory}; the run has ended.{see}{again}"
