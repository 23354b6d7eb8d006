# SPDX-License-Identifier: Apache-2.0
"""A rank that files in RUN_DIR/hooks can disturb while it runs; cluster.slurm.python names it.

die          it ends by SIGKILL as it starts
raise_RANK   that rank raises an error of its own in its next collective
slow         each collective takes so many seconds longer as the file says
pause_at     the run waits before a collective once metrics.jsonl has that many lines
hold_HOST    what a rank itself flushes to the disk on that host (or any) waits as long as the
             file is there: a checkpoint is never published
path_HOST    a folder with packages that the ranks of that host see first
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

AT_MOST_S = 120.0


def main() -> None:
    run_dir = Path(sys.argv[3])
    hooks = run_dir / "hooks"
    if (hooks / "die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = _held(os.fsync, hooks=hooks)
    import torch

    torch.distributed.all_reduce = _disturbed(torch.distributed.all_reduce, run_dir=run_dir)
    # As the interpreter would: hooked_rank.py -m MODULE ARGUMENTS
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _wait_while(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + AT_MOST_S
    while condition() and time.monotonic() < until:
        time.sleep(0.02)


def _held(fsync: Callable[[int], None], *, hooks: Path) -> Callable[[int], None]:
    holds = [hooks / f"hold_{socket.gethostname()}", hooks / "hold_any"]
    own = os.getpid()

    def wait_and_flush(descriptor: int) -> None:
        # Not in the process that writes a checkpoint beside the run: the rank waits for it.
        if os.getpid() == own and any(hold.exists() for hold in holds):
            (hooks / "held").touch()
            _wait_while(lambda: any(hold.exists() for hold in holds))
            (hooks / "woken").touch()
        fsync(descriptor)

    return wait_and_flush


def _disturbed(collective: Callable[..., Any], *, run_dir: Path) -> Callable[..., Any]:
    hooks = run_dir / "hooks"
    raises, pause = hooks / f"raise_{os.environ['SLURM_PROCID']}", hooks / "pause_at"
    slow = hooks / "slow"

    def is_paused() -> bool:
        try:
            at = int(pause.read_text() or "0")
            return at > 0 and (run_dir / "metrics.jsonl").read_bytes().count(b"\n") >= at
        except FileNotFoundError:
            return False

    def perform(*arguments: Any, **options: Any) -> Any:
        _wait_while(is_paused)
        with suppress(FileNotFoundError):
            time.sleep(float(slow.read_text()))
        if raises.exists():
            raise ArithmeticError("the hook of this rank was pulled")
        return collective(*arguments, **options)

    return perform


if __name__ == "__main__":
    main()
