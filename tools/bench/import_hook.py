# SPDX-License-Identifier: Apache-2.0
"""What the CPU import hook costs: megatron-core imported as published, and through the hook.

    python tools/bench/import_hook.py --runs 7

Each figure is the best of its runs, in turns, each in a new process, torch imported beforehand.
"Cold" starts from an empty cache of rewritten code, "warm" from a filled one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

IMPORTS = """
from megatron.core import distributed, optimizer, parallel_state, pipeline_parallel
from megatron.core import dist_checkpointing, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
"""
INSTALL = "from megacpt.device.cpu import import_hook\nimport_hook.install()\n"
TIMED = """
import time, torch
started_s, cpu_started_s = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - started_s, time.process_time() - cpu_started_s)
"""


def seconds(code: str, *, cache: str) -> tuple[float, float]:
    """Wall and CPU seconds. The second means something on a busy machine too."""
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(code)]
    variables = os.environ | {"XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    wall_s, cpu_s = done.stdout.split()[-2:]
    return float(wall_s), float(cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as cache:
        seconds(IMPORTS, cache=cache)
        cold = seconds(INSTALL + IMPORTS, cache=cache)
        plain, warm = [], []
        for _ in range(runs):
            plain.append(seconds(IMPORTS, cache=cache))
            warm.append(seconds(INSTALL + IMPORTS, cache=cache))
    for index, clock in enumerate(("wall", "cpu")):
        report(clock, min(p[index] for p in plain), min(w[index] for w in warm), cold[index])


def report(clock: str, plain: float, warm: float, cold: float) -> None:
    extra, ratio = warm - plain, warm / plain
    print(f"{clock:4}  plain {plain:.2f} s  hook cold {cold:.2f} s  hook warm {warm:.2f} s")
    print(f"      warm - plain {extra:+.2f} s (limit +0.50)  warm / plain {ratio:.2f}")


if __name__ == "__main__":
    main()
