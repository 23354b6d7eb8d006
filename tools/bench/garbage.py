# SPDX-License-Identifier: Apache-2.0
"""How long Python's garbage collector stops a training step, left alone and collected by plan.

    python tools/bench/garbage.py
    python tools/bench/garbage.py --steps 600 --every 100

Trains experiment=tiny on one rank, in a process for each way, and times every collection after
the first step, in CPU time of the thread that collects, so that a busy machine changes little.
With many ranks each pauses at another step, and all wait for it each time. The last column is a
collection of everything, as Python does one now and then and as none happens within the steps
where what was there at the start is set aside.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = (
    *("experiment=tiny", "monitor.wandb=disabled", "evaluate.every_steps=100000"),
    *("evaluate.prompts=null", "checkpoint.every_steps=100000", "cluster.device=cpu"),
    *("data.prefetch_steps=0", "schedule.warmup_steps=2"),
)
"""Nothing but steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=100, help="kernels.manual_gc_steps")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        measure(steps=arguments.steps, every=arguments.worker)
        return
    print(
        f"{'manual_gc_steps':<17}{'collections':>12}{'longest':>12}{'all':>12}{'a step':>12}"
        f"{'everything once':>18}"
    )
    for every in (0, arguments.every):
        words = [sys.executable, __file__, "--steps", str(arguments.steps), "--worker", str(every)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        pauses_ms = found["pauses_ms"]
        print(
            f"{every:<17}{len(pauses_ms):>12}{max(pauses_ms, default=0):>9.2f} ms"
            f"{sum(pauses_ms):>9.2f} ms{found['step_ms']:>9.2f} ms{found['full_ms']:>15.2f} ms"
        )


def measure(*, steps: int, every: int) -> None:
    """As one rank, in this process, so that the collector can be listened to."""
    from megacpt.cluster.prepare import prepare
    from megacpt.config.compose import compose
    from megacpt.device.environment import RankInfo
    from megacpt.train import rank

    pauses_ms: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = compose(
            [
                *(f"run_dir={folder}/run", *SETTINGS, f"schedule.steps={steps}"),
                *(f"kernels.manual_gc_steps={every}", f"monitor.log_every_steps={steps}"),
            ]
        )
        prepare(config)
        metrics = Path(config.run_dir) / "metrics.jsonl"
        gc.callbacks.append(Listener(pauses_ms, metrics))
        rank.run_rank(config, ranks=RankInfo(), mode="train")
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps_ms = sorted(1e3 * record["step_s"] for record in records if "step_s" in record)
    gc.callbacks.clear()
    started_at = time.thread_time()
    gc.collect()
    full_ms = 1e3 * (time.thread_time() - started_at)
    found = {"pauses_ms": pauses_ms, "step_ms": steps_ms[len(steps_ms) // 2], "full_ms": full_ms}
    print(json.dumps(found))


class Listener:
    """Python calls it at the start and the end of each collection."""

    def __init__(self, pauses_ms: list[float], metrics: Path) -> None:
        self._pauses_ms, self._metrics = pauses_ms, metrics
        self._started_at, self._steps = 0.0, False

    def __call__(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            if not self._steps and self._metrics.exists():
                self._steps = b'"step": 1,' in self._metrics.read_bytes()
            self._started_at = time.thread_time()
        elif self._steps:
            self._pauses_ms.append(1e3 * (time.thread_time() - self._started_at))


if __name__ == "__main__":
    main()
