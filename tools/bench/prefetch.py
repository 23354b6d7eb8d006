# SPDX-License-Identifier: Apache-2.0
"""How long the training loop waits for data, with and without reading ahead.

    python tools/bench/prefetch.py --steps 220
    python tools/bench/prefetch.py --steps 220 data.document_mask=true data.global_batch_size=32

A small model on a CPU, in a run of its own a setting; further settings are those of
``megacpt train``. The first ten steps are left out: caches fill and memory is touched first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WARMUP_STEPS = 10
SETTINGS = [
    "experiment=tiny",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
    "monitor.log_every_steps=1000000",
    "evaluate.every_steps=1000000",
    "checkpoint.every_steps=1000000",
]


def waits(steps: int, *, prefetch_steps: int, settings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of waiting and of the whole, for each step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "megacpt", "train", f"run_dir={folder}/run", *SETTINGS]
        command += [f"schedule.steps={steps}", f"data.prefetch_steps={prefetch_steps}", *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines[1:]][WARMUP_STEPS:]
    wait_s, step_s = (np.array([r[key] for r in records]) for key in ("data_wait_s", "step_s"))
    return wait_s, step_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    print("prefetch_steps   wait median      p99   of the step median      p99   step median")
    for ahead in (0, 1, 2, 4):
        wait_s, step_s = waits(arguments.steps, prefetch_steps=ahead, settings=arguments.settings)
        share = wait_s / step_s
        wait_ms = 1e3 * np.quantile(wait_s, [0.5, 0.99])
        of_step = 100 * np.quantile(share, [0.5, 0.99])
        print(
            f"{ahead:14}   {wait_ms[0]:8.3f} ms {wait_ms[1]:5.2f} ms {of_step[0]:16.3f} % "
            f"{of_step[1]:6.2f} % {1e3 * np.median(step_s):10.1f} ms"
        )


if __name__ == "__main__":
    main()
