# SPDX-License-Identifier: Apache-2.0
"""The first error of a run, from what its ranks and Slurm have left in RUN_DIR/logs.

Ranks that can still speak leave a report each; of one that was killed srun says so in the log of
the job. Of all of them one is the cause: see megacpt.cluster.failures for the order.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.cluster.failures import (
    OUT_OF_MEMORY,
    Ending,
    RankFailure,
    cause_of,
    failure_from_report,
)
from megacpt.cluster.restarts import History, JobEnd, JobStart, history
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError, EndedOnRequest

_KILLED = re.compile(
    r"srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,\-\[\]]+): (?P<how>(?!Exited with).+)"
)
_TERMINATING = "Terminating StepId="
_EARLIER = "earlier"
_REPORTS = ("rank_*.error.json", "rank_*.stacks*.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLogs:
    """What ``megacpt logs`` shows."""

    history: History
    cause: Ending | None
    """Why the last start failed; None where it has not, or runs."""
    logs: Path


def heading(*, job: str, restart: int) -> str:
    """The first line of each start in the log that all jobs of the run share."""
    return f"== job {job}, start {restart + 1}"


def read_logs(run_dir: Path) -> RunLogs:
    folder = RunFolder(run_dir)
    if not folder.logs.is_dir():
        raise ConfigError(
            f"{run_dir} has no logs: it is no folder of a run that was started; give RUN_DIR."
        )
    found = history(folder.jobs)
    last = found.starts[-1] if found.starts else None
    return RunLogs(history=found, cause=first_error(folder, start=last), logs=folder.logs)


def first_error(folder: RunFolder, *, start: JobStart | None) -> Ending | None:
    """Why a Slurm job's start failed, or the last local one where it is None.

    None where no rank has left a report and srun has told of none that was killed.
    """
    reports = _reports(folder, start=start)
    failures = [failure_from_report(r) for r in reports if not _was_asked_for(r)]
    if start is not None:
        failures += _killed(folder, start=start)
    if not failures:
        return None
    cause = cause_of(failures)
    return Ending(text=cause.text, exit_code=cause.exit_code)


def timeline(found: History) -> list[str]:
    """A line for each start of a Slurm job: where, from which step, how it ended."""
    return [_line(start, end=found.end_of(start)) for start in found.starts]


def _line(start: JobStart, *, end: JobEnd | None) -> str:
    at = time.strftime("%m-%d %H:%M", time.localtime(start.time))
    how = f"[{end.exit_code}] {end.why}" if end is not None else "runs, or was lost with its node"
    again = f" restart {start.restart}" if start.restart else ""
    return f"{at}  job {start.job}{again} on {start.nodes} from step {start.step}: {how}"


def asked_to_end(folder: RunFolder, *, start: JobStart | None) -> str | None:
    """The words of a run that was asked to end before its last step; None: it was not."""
    asked = (str(r["message"]) for r in _reports(folder, start=start) if _was_asked_for(r))
    return next(asked, None)


def set_aside(folder: RunFolder, *, start: JobStart | None) -> None:
    """Reports of an earlier start go into a folder of their own, so that none is taken for new."""
    name = start.id if start is not None else "local"
    old = [path for pattern in _REPORTS for path in folder.logs.glob(pattern)]
    if old:
        (folder.logs / _EARLIER / name).mkdir(parents=True, exist_ok=True)
    for path in old:
        if path.stat().st_size == 0:
            path.unlink()
        else:
            path.replace(folder.logs / _EARLIER / name / path.name)


def _reports(folder: RunFolder, *, start: JobStart | None) -> Iterator[dict[str, Any]]:
    """Reports of this start: an earlier one may live on in a node that was cut off."""
    for path in sorted(folder.logs.glob("rank_*.error.json")):
        report = _read(path)
        if report is not None and (start is None or report.get("slurm") == start.id):
            yield report


def _was_asked_for(report: dict[str, Any]) -> bool:
    return bool(report["exit_code"] == EndedOnRequest.exit_code)


def _read(path: Path) -> dict[str, Any] | None:
    """None where its writer was lost, or the disk is full."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def _killed(folder: RunFolder, *, start: JobStart) -> list[RankFailure]:
    """The first ranks that srun has found killed, before it has ended any itself."""
    for line in log_of_start(folder, start=start):
        if _TERMINATING in line:
            break
        if match := _KILLED.match(line):
            return [
                RankFailure(
                    rank=0,
                    time=start.time,
                    kind="killed",
                    exit_code=os.EX_TEMPFAIL,
                    text=_killed_text(folder, **match.groupdict()),
                )
            ]
    return []


def _killed_text(folder: RunFolder, *, node: str, ranks: str, how: str) -> str:
    memory = OUT_OF_MEMORY if how.startswith("Killed") else ""
    many = "s" if re.search(r"[,\-]", ranks) else ""
    return (
        f"Error: rank{many} {ranks.strip('[]')} on {node}: {how}{memory}; the run has ended. "
        f"What it has said last is in {folder.logs}."
    )


def log_of_start(folder: RunFolder, *, start: JobStart) -> list[str]:
    """The lines of one start in the common log."""
    if not folder.train_log.exists():
        return []
    text = folder.train_log.read_text(encoding="utf-8", errors="replace")
    _, found, after = text.rpartition(heading(job=start.job, restart=start.restart))
    return after.partition("\n== job ")[0].splitlines() if found else []
