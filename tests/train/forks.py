# SPDX-License-Identifier: Apache-2.0
"""Starts of the trainer that cost little: forks of a process which has imported all it needs.

For modules that tests.run_on_ranks imports, not for the test's own process: only one without
threads is safely forked.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megacpt.device.cpu import import_hook
from megacpt.device.environment import RankInfo, die_with_parent
from megacpt.device.quiet import quiet_libraries
from megacpt.errors import MegacptError
from tests.support import free_port
from tests.train.guard.fault_loop import run_config

quiet_libraries()
import_hook.install()

from megacpt.train.rank import run_rank  # noqa: E402

Settings = dict[str, Any]


def start(settings: Settings, *, world: int = 1) -> list[int]:
    """Process numbers of the ranks of a run, which end with the exit code of the product."""
    port = free_port()
    return [_start_rank(settings, rank=rank, world=world, port=port) for rank in range(world)]


def _start_rank(settings: Settings, *, rank: int, world: int, port: int) -> int:
    child = os.fork()
    if child:
        os.setpgid(child, 0)
        return child
    code = 1
    try:
        die_with_parent()
        place = RankInfo(
            rank=rank,
            world_size=world,
            local_rank=rank,
            local_world_size=world,
            master_port=port,
        )
        _silence(Path(settings["run_dir"]), rank=rank)
        run_rank(run_config(settings), ranks=place, mode="train")
        code = 0
    except MegacptError as error:
        (Path(settings["run_dir"]) / f"error_{rank}.txt").write_text(str(error))
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - the parent must not run on in the child
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _silence(run_dir: Path, *, rank: int) -> None:
    """Into RUN_DIR/rank_N.log, what is said by warnings too."""
    run_dir.mkdir(parents=True, exist_ok=True)
    log = os.open(run_dir / f"rank_{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def wait(children: list[int]) -> list[int]:
    """Exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(settings: Settings, *, world: int = 1) -> list[int]:
    return wait(start(settings, world=world))


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_for(moment: Callable[[], bool], *, child: int) -> bool:
    """False where the child has ended before it came."""
    stop_at = time.monotonic() + 300
    while not moment():
        assert time.monotonic() < stop_at, "waited in vain"
        if has_ended(child):
            return False
        time.sleep(0.0005)
    return True
