# SPDX-License-Identifier: Apache-2.0
"""What the batch script of a Slurm job asks before and after its ranks run.

    python -m megacpt.cluster.job begin RUN_DIR --job 7          0: go on; 3: nothing is left
    python -m megacpt.cluster.job without RUN_DIR --job 7 ...    bad nodes, as --exclude takes them
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

from megacpt.checkpoint import folders
from megacpt.checkpoint.manifest import CheckpointManifest
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
from megacpt.errors import EndedOnRequest, MegacptError, Superseded
from megacpt.preflight import bad_nodes

FINISHED = 3
"""Exit code of ``begin``: all steps of the run are done."""
FIRST_SIGNAL = 128
"""Added to its number: the exit code of what a signal has ended."""
BY_FILE = "`request`"
"""Part of the words of a run that RUN_DIR/request has ended (megacpt.train.requests)."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except MegacptError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    own = {name: verbs.add_parser(name) for name in ("begin", "without", "end")}
    for verb in own.values():
        verb.add_argument("run_dir", type=Path)
        verb.add_argument("--job", required=True)
        verb.add_argument("--restart", type=int, default=0)
    own["begin"].add_argument("--nodes", default="")
    own["begin"].add_argument("--continues", action="store_true")
    own["without"].add_argument("--nodes", required=True, help="node1,node2")
    own["without"].add_argument("--spares", type=int, required=True)
    own["end"].add_argument("--code", type=int, required=True)
    for name, run in (("begin", _begin), ("without", _without), ("end", _end)):
        own[name].set_defaults(run=run)
    return parser


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
    _say(f"\n{logs.heading(job=start.job, restart=start.restart)} on {start.nodes}, {_now()}")
    if start.step >= config.schedule.steps:
        _say(f"All {start.step} steps of {arguments.run_dir} are done; nothing is left to do.")
        return FINISHED
    past = history(folder.jobs).starts
    limit = config.cluster.slurm.max_restarts_without_progress
    require_progress(past, start=start, restarts_max=limit)
    logs.set_aside(folder, start=past[-1] if past else None)
    note_start(folder.jobs, start=start)
    return 0


def _without(arguments: argparse.Namespace) -> int:
    """Runs before the ranks start, again where a preflight has ended them."""
    folder = RunFolder(arguments.run_dir)
    past = history(folder.jobs)
    logs.set_aside(folder, start=past.start_of(job=arguments.job, restart=arguments.restart))
    here = arguments.nodes.split(",")
    bad = [host for host in bad_nodes.hosts_to_exclude(folder.root) if host in here]
    _say(",".join(bad[: arguments.spares]))
    return 0


def _end(arguments: argparse.Namespace) -> int:
    folder = RunFolder(arguments.run_dir)
    past = history(folder.jobs)
    own = past.start_of(job=arguments.job, restart=arguments.restart)
    if own is not None and past.starts[-1] != own:
        # This node was cut off: Slurm has long started the run elsewhere, maybe as the same job.
        last = past.starts[-1].nodes
        raise Superseded(f"job {own.job} has been superseded by a start on {last}; it ends here.")
    code, why = _code_and_words(folder, start=own, code=arguments.code)
    _say(f"\n{why.rstrip()}")
    note_end(
        folder.jobs,
        job=arguments.job,
        restart=arguments.restart,
        exit_code=code,
        why=_last_words(why),
    )
    return code


def _code_and_words(folder: RunFolder, *, start: JobStart | None, code: int) -> tuple[int, str]:
    """The exit code that the script obeys, and the words: srun's own code is that of the rank it
    has killed, if it has killed any."""
    if code == 0:
        return _without_error(folder, start=start)
    cause = logs.first_error(folder, start=start)
    if cause is not None:
        return cause.exit_code, cause.text
    if code >= FIRST_SIGNAL or code == os.EX_TEMPFAIL:
        return os.EX_TEMPFAIL, f"Error: the ranks were ended from outside ({_name_of(code)})."
    return code, f"Error: the ranks ended with exit code {code} and left no message."


def _without_error(folder: RunFolder, *, start: JobStart | None) -> tuple[int, str]:
    """All ranks have ended well: after the last step, or because they were asked to."""
    asked = logs.asked_to_end(folder, start=start)
    step, steps = newest_step(folder.root), read_run_yaml(folder.run_yaml).schedule.steps
    if step >= steps:
        return 0, f"Trained {steps} steps."
    if asked is None and start is not None and step > start.step:
        words = f"Trained to step {step}; the run has {steps} by now and goes on."
        return EndedOnRequest.exit_code, words
    if asked is None:
        return 1, f"Error: the ranks ended at step {step} of {steps} and left no message."
    if BY_FILE in asked:
        return 0, f"{asked}\nThat is a person's wish: no job is put into the queue."
    return EndedOnRequest.exit_code, asked


def _last_words(text: str) -> str:
    """The error and its rank where the text is a traceback, else its first line."""
    lines = text.strip().splitlines()
    return " ".join(lines[-2:]) if lines[-1].startswith("(rank ") else lines[0]


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint; 0 without one."""
    newest = folders.newest(run_dir / "checkpoints")
    return CheckpointManifest.read(newest).step if newest is not None else 0


def _name_of(code: int) -> str:
    try:
        return signal.Signals(code - FIRST_SIGNAL).name
    except ValueError:
        return f"exit code {code}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
