# SPDX-License-Identifier: Apache-2.0
"""Runs that are asked to save, to end, and that cannot save, in forks of one process.

Each case is one function below; what it found goes to WORK_DIR/NAME.json.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megacpt.checkpoint import starts
from megacpt.checkpoint.writer.shared_memory import Copy
from tests.train import forks

Settings = dict[str, Any]
Found = dict[str, Any]


def run_cases(work: Path, cases: dict[str, Any]) -> None:
    for name in cases["cases"]:
        settings = json.loads(json.dumps(cases["settings"])) | {"run_dir": str(work / name)}
        (work / f"{name}.json").write_text(json.dumps(CASES[name](settings)))


def last_step(settings: Settings) -> int:
    path = Path(settings["run_dir"]) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return len([line for line in lines if line.endswith("}")]) - 1


def ask(settings: Settings, word: str) -> None:
    """As a person would, in one write."""
    (Path(settings["run_dir"]) / "request").write_text(f"{word}\n")


def found(settings: Settings, codes: list[int]) -> Found:
    run_dir = Path(settings["run_dir"])
    checkpoints = run_dir / "checkpoints"
    return {
        "codes": codes,
        "error": "".join(path.read_text() for path in sorted(run_dir.glob("error_*.txt"))[:1]),
        "checkpoints": sorted(path.name for path in checkpoints.glob("*step_*")),
        "steps": last_step(settings),
        "request": (run_dir / "request").exists(),
        "log": (run_dir / "rank_0.log").read_text(),
    }


def begun(settings: Settings, *, world: int = 1, after: int = 4) -> list[int]:
    children = forks.start(settings, world=world)
    assert forks.wait_for(lambda: last_step(settings) >= after, child=children[0])
    return children


def asked(settings: Settings, word: str, *, world: int = 1) -> Found:
    children = begun(settings, world=world)
    ask(settings, word)
    return found(settings, forks.wait(children))


def signalled(settings: Settings, number: int, *, world: int, rank: int) -> Found:
    children = begun(settings, world=world)
    os.kill(children[rank], number)
    first = found(settings, forks.wait(children))
    return {"first": first, "then": found(settings, forks.run(settings, world=world))}


def save_asked_for(settings: Settings) -> Found:
    settings["checkpoint"]["every_steps"] = 1000
    children = begun(settings)
    ask(settings, "nonsense")
    time.sleep(0.2)
    ask(settings, "save")
    checkpoints = Path(settings["run_dir"]) / "checkpoints"
    forks.wait_for(lambda: bool(list(checkpoints.glob("step_*"))), child=children[0])
    return found(settings, forks.wait(children))


def time_limit(settings: Settings) -> Found:
    settings["checkpoint"]["save_before_end_s"] = 1e6
    settings["cluster"]["time_limit_minutes"] = 60.0
    settings["schedule"]["steps"] = 3
    return {"all": [found(settings, forks.run(settings)) for _ in range(3)]}


def superseded(settings: Settings) -> Found:
    run_dir = Path(settings["run_dir"])
    children = begun(settings)
    starts.claim(run_dir, host=socket.gethostname(), pid=1)
    claimed_at = last_step(settings)
    before = {path.name for path in (run_dir / "checkpoints").glob("step_*")}
    result = found(settings, forks.wait(children))
    return result | {"claimed_at": claimed_at, "before": sorted(before)}


def writer_killed(settings: Settings) -> Found:
    """The process that writes, once, as the system does when memory runs out."""
    (child,) = forks.start(settings)
    path = Path(f"/proc/{child}/task/{child}/children")
    checkpoints = Path(settings["run_dir"]) / "checkpoints"

    def writes() -> bool:
        return bool(list(checkpoints.glob(".*.partial"))) and bool(path.read_text().split())

    assert forks.wait_for(writes, child=child)
    os.kill(int(path.read_text().split()[0]), signal.SIGKILL)
    return found(settings, forks.wait([child]))


def same_bytes(settings: Settings, *, world: int = 1) -> Found:
    """Of the checkpoint of each step, saved beside training and while it waits.

    Copied so slowly that the step after is long over by then, unless its update waits for the copy.
    """
    make = Copy.make

    def make_slowly(copy: Copy) -> None:
        time.sleep(0.003)
        make(copy)

    Copy.make = make_slowly  # type: ignore[method-assign]
    try:
        return {str(beside): sums(settings, beside=beside, world=world) for beside in (True, False)}
    finally:
        Copy.make = make  # type: ignore[method-assign]


def sums(settings: Settings, *, beside: bool, world: int) -> list[dict[str, str]]:
    """Of the tensors' files of each checkpoint."""
    settings["schedule"]["steps"] = 8
    settings["checkpoint"] |= {"asynchronous": beside, "keep_last": 20}
    own = settings | {"run_dir": f"{settings['run_dir']}-{beside}"}
    assert forks.run(own, world=world) == [0] * world
    return [
        {name: entry["xxh128"] for name, entry in files_of(folder).items() if "distcp" in name}
        for folder in sorted((Path(own["run_dir"]) / "checkpoints").glob("step_*"))
    ]


def files_of(folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["files"]
    return files


def with_parallel(settings: Settings, **parallel: Any) -> Settings:
    return settings | {"parallel": parallel}


CASES: dict[str, Callable[[Settings], Found]] = {
    "save": save_asked_for,
    "save_and_exit": lambda s: asked(s, "save_and_exit"),
    "stop": lambda s: asked(s, "stop"),
    "time_limit": time_limit,
    "superseded": superseded,
    "writer_killed": writer_killed,
    "usr1": lambda s: signalled(s, signal.SIGUSR1, world=1, rank=0),
    "term_to_one_rank": lambda s: signalled(
        with_parallel(s, dp=2, distributed_optimizer=True), signal.SIGTERM, world=2, rank=1
    ),
    "bytes": same_bytes,
    "bytes_overlap": lambda s: same_bytes(
        with_parallel(
            s,
            dp=2,
            distributed_optimizer=True,
            overlap_grad_reduce=True,
            overlap_param_gather=True,
        ),
        world=2,
    ),
    "bytes_offload": lambda s: same_bytes(
        with_parallel(s | {"optim": {"offload": True}}, dp=1, distributed_optimizer=True)
    ),
    "bytes_muon": lambda s: same_bytes(s | {"optim": {"optimizer": "muon"}}),
    "bytes_zero1": lambda s: same_bytes(
        with_parallel(s, dp=2, distributed_optimizer=True), world=2
    ),
    "bytes_zero3": lambda s: same_bytes(with_parallel(s, dp=2, sharded_weights=True), world=2),
}
