# SPDX-License-Identifier: Apache-2.0
"""Why ranks have failed, or hang: of all their reports the one to show.

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
"""Which of several failures is the cause, whichever came first."""
OUT_OF_MEMORY = " (the system does that when memory runs out)"
START_AGAIN = "Start the same command again: it goes on from the last checkpoint"


@dataclass(slots=True, kw_only=True)
class Rank:
    rank: int
    process: subprocess.Popen[bytes]
    ended_at: float | None = None
    is_stopped_by_launcher: bool = False
    """It was killed for the failure of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFailure:
    """Why a rank ended, in the words to show."""

    rank: int
    time: float
    kind: str
    """``user``, ``defect``, ``peer`` (another rank went first), ``hang``, ``killed``, or
    ``request``: the run was asked to end."""
    exit_code: int
    text: str

    @property
    def is_cause(self) -> bool:
        """No consequence of another failure, so that there is nothing to wait for."""
        return self.kind not in ("peer", "hang", "request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the launcher says and ends with."""

    text: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentRank:
    """A rank that neither ended nor wrote its stacks when the others did."""

    rank: int
    process: int
    is_stopped: bool
    has_answered: bool
    """It wrote its stacks when the launcher asked for them."""


def cause_of(failures: Sequence[RankFailure]) -> RankFailure:
    return min(failures, key=lambda failure: (ORDER.index(failure.kind), failure.time))


def ending(
    failures: Sequence[RankFailure], *, silent: Sequence[SilentRank], folder: RunFolder
) -> Ending:
    cause = cause_of(failures)
    # Lost connections of all others, while one still runs, are its doing.
    if cause.kind == "hang" or (cause.kind == "peer" and silent):
        text = _hang_text(cause, silent=silent, folder=folder)
        return Ending(text=text, exit_code=os.EX_TEMPFAIL)
    return Ending(text=cause.text, exit_code=cause.exit_code)


def ask_for_stacks(ranks: Sequence[Rank], *, folder: RunFolder) -> list[SilentRank]:
    """Ask the ranks that still run after others ended by a hang or a lost connection."""
    failures = failures_of(ranks, folder=folder)
    if not failures or any(failure.is_cause for failure in failures):
        return []
    asked = [rank for rank in ranks if rank.ended_at is None]
    stopped = {rank.rank: _is_stopped(rank.process.pid) for rank in asked}
    for rank in asked:
        if not stopped[rank.rank]:
            rank.process.send_signal(signal.SIGQUIT)
    if asked:
        time.sleep(STACKS_WAIT_S)
    return [
        SilentRank(
            rank=rank.rank,
            process=rank.process.pid,
            is_stopped=stopped[rank.rank],
            has_answered=_has_stacks(rank.rank, folder=folder),
        )
        for rank in asked
    ]


def _is_stopped(process: int) -> bool:
    """Stopped by SIGSTOP, a debugger or job control; only Linux says so."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "t")


def _has_stacks(rank: int, *, folder: RunFolder) -> bool:
    path = folder.stacks_of(rank)
    return path.exists() and path.stat().st_size > 0


def _hang_text(cause: RankFailure, *, silent: Sequence[SilentRank], folder: RunFolder) -> str:
    """``cause`` is the rank whose last sign of life is the oldest, of those that still could say
    so; one that could not say it is the likelier cause."""
    if silent:
        worst = min(silent, key=lambda rank: (not rank.is_stopped, rank.has_answered))
        culprit = f"rank {worst.rank} (process {worst.process})"
        if worst.is_stopped:
            why = "is stopped (SIGSTOP or a debugger) and could not write its stacks"
        elif worst.has_answered:
            why = "went on without noticing that the others waited in vain"
        else:
            why = "did not respond"
    else:
        culprit, why = f"rank {cause.rank}", f"has the oldest last sign of life: {cause.text}"
    return (
        f"Error: the run hung and was ended. Likely to blame: {culprit}, which {why}.\n"
        f"Where each thread of the others stood: {folder.logs}/rank_*.stacks*.txt\n"
        f"{START_AGAIN} (cluster.retries=N does so by itself)."
    )


def failures_of(ranks: Sequence[Rank], *, folder: RunFolder) -> list[RankFailure]:
    found = (_failure_of(rank, folder=folder) for rank in ranks)
    return [failure for failure in found if failure is not None]


def _failure_of(rank: Rank, *, folder: RunFolder) -> RankFailure | None:
    """None where the rank still runs, ended well, or was ended by the launcher."""
    code = rank.process.returncode
    if rank.ended_at is None or code in (None, 0):
        return None
    report = folder.error_of(rank.rank)
    if report.exists():
        return failure_from_report(json.loads(report.read_text(encoding="utf-8")))
    if rank.is_stopped_by_launcher and code == -signal.SIGKILL:
        return None
    # faulthandler's own timer leaves stacks but no report.
    kind = "hang" if _has_stacks(rank.rank, folder=folder) else "defect"
    return RankFailure(
        rank=rank.rank,
        time=rank.ended_at,
        kind="killed" if code < 0 else kind,
        exit_code=1 if code > 0 else os.EX_TEMPFAIL,
        text=_text_without_report(rank, folder=folder),
    )


def failure_from_report(report: dict[str, Any]) -> RankFailure:
    """What ``RUN_DIR/logs/rank_N.error.json`` says, as the rank itself has written it."""
    kind, message = report["kind"], report["message"]
    texts = {"user": f"Error: {message}", "hang": message, "request": message}
    return RankFailure(
        rank=report["rank"],
        time=float(report["time"]),
        kind=kind,
        exit_code=report["exit_code"],
        text=texts.get(kind) or f"{report['traceback']}(rank {report['rank']})",
    )


def _text_without_report(rank: Rank, *, folder: RunFolder) -> str:
    code = rank.process.returncode
    if code >= 0:
        end = f"ended with exit code {code} and left no message"
    else:
        end = f"was killed by {signal.Signals(-code).name}"
    memory = OUT_OF_MEMORY if -code == signal.SIGKILL else ""
    see = f" Its output is in {folder.log_of(rank.rank)}." * (rank.rank > 0)
    if _has_stacks(rank.rank, folder=folder):
        see += f" Where it stood: {folder.stacks_of(rank.rank)}."
    again = f" {START_AGAIN}." * (code < 0)
    return f"Error: rank {rank.rank} {end}{memory}; the run has ended.{see}{again}"
