# SPDX-License-Identifier: Apache-2.0
"""One rank, from its environment variables to its exit code.

    python -m megacpt.train.rank RUN_DIR --mode train

A rank that fails leaves ``RUN_DIR/logs/rank_N.error.json``, from which the launcher shows the one
cause of a run that ended on many ranks. One that hangs, or is asked by SIGQUIT, or crashes in
native code, leaves ``rank_N.stacks.txt`` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.config.schema import to_tree
from megacpt.config.sections import RunConfig
from megacpt.device.environment import (
    RankInfo,
    die_with_parent,
    rank_from_environment,
    slurm_start,
)
from megacpt.device.quiet import quiet_libraries
from megacpt.errors import EndedOnRequest, EnvironmentError_, MegacptError
from megacpt.files import write_text
from megacpt.plan.rules.faults import hang_minutes
from megacpt.preflight import is_wanted
from megacpt.train.guard.watchdog import SignOfLife, Stacks, Watchdog

if TYPE_CHECKING:
    from megacpt.preflight.preflight import Preflight

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Broken pipe",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--mode", choices=["train", "take_over", "evaluate"], required=True)
    arguments = parser.parse_args(argv)
    ranks = rank_from_environment()
    if ranks is None:
        raise EnvironmentError_("RANK and WORLD_SIZE are not set; start ranks with megacpt train.")
    die_with_parent()
    return run_reported(arguments.run_dir, ranks=ranks, mode=arguments.mode)


def run_reported(run_dir: Path, *, ranks: RankInfo, mode: str) -> int:
    """Take this rank's part of the run in ``run_dir``; the exit code, after the report of an end
    that is not the run's."""
    try:
        run_rank(read_run_yaml(run_dir / "run.yaml"), ranks=ranks, mode=mode)
    except BaseException as error:  # noqa: BLE001 - the last resort: reported, then the rank ends
        leave_error(RunFolder(run_dir).error_of(ranks.rank), error=error, rank=ranks.rank)
        return _exit_code(error)
    return 0


def run_rank(
    config: RunConfig,
    *,
    ranks: RankInfo,
    mode: str,
    prepare: Callable[[], object] | None = None,
) -> None:
    """Take this rank's part of the run; the first rank runs ``prepare`` before all go on."""
    quiet_libraries()
    # torch must not be imported before its variables are set, nor megatron.core before the runtime
    # knows the device (its CPU import hook).
    from megacpt.device import runtime
    from megacpt.device.collective import from_first_rank

    checked = _look(config, ranks=ranks)
    rank_runtime = runtime.start(
        ranks,
        cluster=config.cluster,
        deterministic=config.kernels.deterministic,
        store=checked.store if checked else None,
    )
    if checked is not None:
        checked.check_links(rank_runtime.device)
    if prepare is not None:
        try:
            from_first_rank(prepare)
        except MegacptError as refusal:
            # The first rank alone says why.
            if ranks.rank == 0:
                raise
            raise SystemExit(MegacptError.exit_code) from refusal
    from megacpt.train.assembly import run_mode

    folder = RunFolder(Path(config.run_dir))
    stacks = Stacks(folder.stacks_of(ranks.rank))
    stacks.dump_when_asked()
    watchdog = Watchdog(
        hang_s=60 * hang_minutes(config),
        stacks=stacks,
        leave=lambda sign: _leave_hang(folder.error_of(ranks.rank), sign=sign, rank=ranks.rank),
    )
    run_mode(mode, config=config, runtime=rank_runtime, watchdog=watchdog)
    stacks.close()
    # Only after success: leaving the group can block for ever once a peer has died.
    runtime.stop()


def _look(config: RunConfig, *, ranks: RankInfo) -> Preflight | None:
    """At all nodes, where there are several, before the ranks join."""
    if not is_wanted(config.cluster.preflight, ranks=ranks):
        return None
    from megacpt.preflight import preflight

    return preflight.check_nodes(
        ranks, run_dir=Path(config.run_dir), cluster=config.cluster, settings=to_tree(config)
    )


def leave_error(path: Path, *, error: BaseException, rank: int) -> None:
    """Write why the rank ends, for the launcher."""
    report = _report(rank, at=time.time(), kind=_kind(error), code=_exit_code(error))
    lines = traceback.format_exception(error)
    write_text(path, text=json.dumps(report | {"message": str(error), "traceback": "".join(lines)}))


def _leave_hang(path: Path, *, sign: SignOfLife, rank: int) -> None:
    """``time`` is that of the last sign of life: the oldest one points to the rank to blame."""
    report = _report(rank, at=sign.at, kind="hang", code=os.EX_TEMPFAIL)
    message = f"rank {rank} hangs; its last sign of life was {sign}"
    write_text(path, text=json.dumps(report | {"message": message}))


def _report(rank: int, *, at: float, kind: str, code: int) -> dict[str, object]:
    return {"rank": rank, "slurm": slurm_start(), "time": at, "kind": kind, "exit_code": code}


def _exit_code(error: BaseException) -> int:
    """Lost connections may be the network's fault, so that another start may go well."""
    if isinstance(error, MegacptError):
        return error.exit_code
    return os.EX_TEMPFAIL if _kind(error) == "peer" else 1


def _kind(error: BaseException) -> str:
    """``peer`` errors are consequences: another rank went away first."""
    if isinstance(error, EndedOnRequest):
        return "request"
    if isinstance(error, MegacptError):
        return "user"
    return "peer" if any(words in str(error) for words in LOST_PEER) else "defect"


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A failed rank may have threads blocked in a collective; they must not keep it alive.
    os._exit(code)
