# SPDX-License-Identifier: Apache-2.0
"""Start the trainer again and again, and kill it: {"settings": SETTINGS, "kills": N, "seed": N}.

Writes WORK_DIR/kills.json: for each kill the step that was reached and what lay in the folder of
checkpoints.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.train import forks

MOMENTS = (
    ".step_*.partial",
    ".step_*.partial/*",
    ".step_*.partial/.metadata*",
    ".step_*.partial/manifest.json*",
    "latest.partial",
    ".step_*.aside",
)
"""What shows in the folder of checkpoints while one is written, published and pruned."""


def kill_and_go_on(work: Path, cases: dict[str, Any]) -> None:
    settings, rng, kills = cases["settings"], random.Random(cases["seed"]), []
    assert forks.run(settings | {"run_dir": str(work / "whole")}) == [0]
    settings["run_dir"] = str(work / "broken")
    run_dir = work / "broken"
    for number in range(cases["kills"]):
        (child,) = forks.start(settings)
        moment = in_save(run_dir, rng) if number % 2 else in_step(run_dir, rng)
        assert forks.wait_for(moment, child=child), "it ended before it was killed"
        time.sleep(rng.uniform(0, 0.02))
        os.killpg(child, signal.SIGKILL)
        forks.wait([child])
        kills.append({"step": last_step(run_dir), "found": contents(run_dir)})
    assert forks.run(settings) == [0]
    (work / "kills.json").write_text(json.dumps(kills))


def go_on(work: Path, cases: dict[str, Any]) -> None:
    """Once more, which is refused."""
    assert forks.run(cases["settings"] | {"run_dir": str(work / "broken")}) == [2]


def in_step(run_dir: Path, rng: random.Random) -> Callable[[], bool]:
    """Some steps on; sometimes already while the run starts."""
    wanted = last_step(run_dir) + rng.randint(0, 10)
    return lambda: last_step(run_dir) >= wanted


def in_save(run_dir: Path, rng: random.Random) -> Callable[[], bool]:
    """Where one of MOMENTS shows again, in the first, second or third save.

    The shortest ones may be missed; then some time later.
    """
    root, pattern, saves = run_dir / "checkpoints", rng.choice(MOMENTS), rng.randint(0, 2)
    seen, before = set(root.glob(pattern)), set(root.glob("step_*"))
    patience_s, saved_at = rng.uniform(0.1, 0.3), list[float]()

    def moment() -> bool:
        if not saved_at and len(set(root.glob("step_*")) - before) >= saves:
            saved_at.append(time.monotonic())
        if not saved_at:
            return False
        is_late = last_step(run_dir) > 0 and time.monotonic() > saved_at[0] + patience_s + saves
        return is_late or bool(set(root.glob(pattern)) - seen)

    return moment


def last_step(run_dir: Path) -> int:
    """Of metrics.jsonl; -1 where there is none."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else -1


def contents(run_dir: Path) -> list[str]:
    root = run_dir / "checkpoints"
    return sorted(path.name for path in root.glob("*")) if root.exists() else []
