# SPDX-License-Identifier: Apache-2.0
"""What adapters learn and forget beside full weights, on the quickstart's task.

    make quickstart
    python tools/bench/adapter_quality.py
    python tools/bench/adapter_quality.py --methods full lora --seeds 1

SmolLM2-135M learns the Folio from the same samples (a seed changes their order and the factors'
first values), each method at a rate of its own, the best of --rates-of METHOD on seed 1. Gain and
forgetting are the held-out losses after the run less the base model's, in nats a token: of other
plays, and of Python's manual. Time is that of the steps, memory the largest of a run's process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("quickstart")
RUNS = ROOT / "adapters"
METHODS: dict[str, tuple[str, ...]] = {
    "full": ("optim.lr_peak=2e-4",),
    "lora": ("adapter=lora", "optim.lr_peak=4e-3"),
    "dora": ("adapter=dora", "optim.lr_peak=4e-3"),
    "lora_xs": ("adapter=lora_xs", "optim.lr_peak=1e-3"),
}
RATES = ("2e-4", "5e-4", "1e-3", "2e-3", "4e-3", "8e-3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Of one run."""

    gain: float
    forgetting: float
    step_s: float
    peak_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rates-of", choices=METHODS, help="print what each rate gives, and end")
    arguments = parser.parse_args()
    head = f"{'':<16}{'gain':>9}{'+-':>7}{'forgotten':>11}{'+-':>7}{'s a step':>10}{'GiB':>7}"
    print(head, flush=True)
    if (method := arguments.rates_of) is not None:
        for rate in RATES:
            show(f"{method} {rate}", [train(method, seed=1, more=(f"optim.lr_peak={rate}",))])
        return
    for method in arguments.methods:
        show(method, [train(method, seed=seed) for seed in arguments.seeds])


def show(name: str, runs: list[Found]) -> None:
    gain, forgetting = ([getattr(run, of) for run in runs] for of in ("gain", "forgetting"))
    print(
        f"{name:<16}{statistics.mean(gain):>9.3f}{spread(gain):>7.3f}"
        f"{statistics.mean(forgetting):>11.3f}{spread(forgetting):>7.3f}"
        f"{statistics.median(run.step_s for run in runs):>10.2f}"
        f"{max(run.peak_gib for run in runs):>7.2f}",
        flush=True,
    )


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def train(method: str, *, seed: int, more: tuple[str, ...] = ()) -> Found:
    run_dir = RUNS / f"{method}-{seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    settings = ["experiment=quickstart", f"run_dir={run_dir}", f"seed={seed}", "monitor=quiet"]
    settings += ("evaluate.prompts=null", "evaluate.every_steps=100", "checkpoint.every_steps=100")
    words = [sys.executable, "-m", "megacpt", "train", *settings, *METHODS[method], *more]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(words)} ended with status {status}")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    measured = [record["heldout"] for record in records if "heldout" in record]
    change = {name: measured[-1][name]["loss"] - measured[0][name]["loss"] for name in measured[0]}
    steps_s = [record["step_s"] for record in records if "step_s" in record]
    shutil.rmtree(run_dir)
    return Found(
        gain=-change["folio"],
        forgetting=change["python"],
        step_s=statistics.median(steps_s),
        peak_gib=usage.ru_maxrss / 2**20,
    )


if __name__ == "__main__":
    main()
