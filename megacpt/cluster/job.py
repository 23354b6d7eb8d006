# SPDX-License-Identifier: Apache-2.0
"""What the batch script of a Slurm job asks before and after its ranks run.

    python -m megacpt.cluster.job begin RUN_DIR --job 7          0: go on; 3: nothing is left
    python -m megacpt.cluster.job end RUN_DIR --job 7 --code 1   why, and the code to obey

The script itself only starts things; every decision is here, without torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megacpt.checkpoint import store
from megacpt.checkpoint.manifest import read_manifest
from megacpt.cluster import logs
from megacpt.cluster.restarts import (
    JobStart,
    history,
    note_end,
    note_start,
    require_progress,
)
from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.errors import MegacptError

FINISHED = 3
"""Of ``begin``: all steps of the run are done, or this job is not to run."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("begin", _begin), ("end", _end)):
        verb = verbs.add_parser(name)
        verb.add_argument("run_dir", type=Path)
        verb.add_argument("--job", required=True)
        verb.add_argument("--restart", type=int, default=0)
        verb.set_defaults(run=run)
        if name == "begin":
            verb.add_argument("--nodes", default="")
            verb.add_argument("--continues", action="store_true")
        else:
            verb.add_argument("--code", type=int, required=True)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except MegacptError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code


def _begin(arguments: argparse.Namespace) -> int:
    folder = RunFolder(arguments.run_dir)
    config = read_run_yaml(folder.run_yaml)
    start = JobStart(
        job=arguments.job,
        restart=arguments.restart,
        nodes=arguments.nodes,
        continues=arguments.continues,
        step=newest_step(arguments.run_dir),
        time=time.time(),
    )
    _say(f"\n{logs.mark_of(job=start.job, restart=start.restart)} on {start.nodes}, {_now()}")
    if start.step >= config.schedule.steps:
        _say(f"All {start.step} steps of {arguments.run_dir} are done; nothing is left to do.")
        return FINISHED
    past = history(folder.jobs).starts
    limit = config.cluster.slurm.max_restarts_without_progress
    require_progress(past, start=start, restarts_max=limit)
    logs.set_aside(folder, start=past[-1] if past else None)
    note_start(folder.jobs, start)
    return 0


def _end(arguments: argparse.Namespace) -> int:
    folder = RunFolder(arguments.run_dir)
    starts = history(folder.jobs).starts
    own = [s for s in starts if (s.job, s.restart) == (arguments.job, arguments.restart)]
    code, why = _verdict(folder, start=own[-1] if own else None, code=arguments.code)
    _say(f"\n{why}")
    note_end(
        folder.jobs,
        job=arguments.job,
        restart=arguments.restart,
        exit_code=code,
        why=why.strip().splitlines()[-1],
    )
    return code


def _verdict(folder: RunFolder, *, start: JobStart | None, code: int) -> tuple[int, str]:
    """The exit code that the script obeys, and the words: srun's own code is that of the rank it
    has killed, if it has killed any."""
    cause = logs.first_error(folder, start=start) if code != 0 else None
    if cause is not None:
        return cause.exit_code, cause.text
    step, steps = newest_step(folder.root), read_run_yaml(folder.run_yaml).schedule.steps
    if code == 0 and step >= steps:
        return 0, f"Trained {steps} steps."
    if code in (0, logs.SAVED):
        return logs.SAVED, f"Saved and stopped at step {step} of {steps}, as was asked."
    if code >= 128 or code == os.EX_TEMPFAIL:
        return os.EX_TEMPFAIL, f"Error: the ranks were ended from outside ({_name_of(code)})."
    return code, f"Error: the ranks ended with exit code {code} and left no message."


def newest_step(run_dir: Path) -> int:
    """Of the newest checkpoint; 0 without one."""
    newest = store.newest(run_dir / "checkpoints")
    return read_manifest(newest).step if newest is not None else 0


def _name_of(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
