# SPDX-License-Identifier: Apache-2.0
"""Products of bf16 matrices on this CPU: torch's own, and those that megacpt puts in their place
where torch has no kernel (megacpt/device/cpu/bf16_products.py); beside fp32.

Shapes are those of SmolLM2-135M: 512 tokens into the MLP, and into the vocabulary. One thread.
"""

from __future__ import annotations

import time

import torch

from megacpt.device.cpu import bf16_products

TOKENS, SHAPES = 512, {"MLP": (576, 1536), "vocabulary": (576, 49152)}
ROUNDS = 3


def gflops(dtype: torch.dtype, *, inner: int, outer: int) -> float:
    """The best of some rounds."""
    x, weight = torch.ones(TOKENS, inner, dtype=dtype), torch.ones(inner, outer, dtype=dtype)
    best_s = float("inf")
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        torch.mm(x, weight)
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * TOKENS * inner * outer / best_s / 1e9


def rates(dtype: torch.dtype) -> list[float]:
    return [gflops(dtype, inner=inner, outer=outer) for inner, outer in SHAPES.values()]


def main() -> None:
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    kernel = "has a kernel" if bf16_products.has_own() else "has no kernel"
    print(f"torch {torch.__version__}, {capability}, {kernel} for bf16\n")
    print(f"{'GFLOP/s':>18}" + "".join(f"{name:>14}" for name in SHAPES))
    fp32, own = rates(torch.float32), rates(torch.bfloat16)
    library = bf16_products.registered()
    replaced = rates(torch.bfloat16)
    del library
    for name, found in (("fp32", fp32), ("bf16 of torch", own), ("bf16 replaced", replaced)):
        print(f"{name:>18}" + "".join(f"{rate:>14.1f}" for rate in found))
    ratios = [after / before for after, before in zip(replaced, own, strict=True)]
    print(f"{'replaced / own':>18}" + "".join(f"{ratio:>13.1f}x" for ratio in ratios))


if __name__ == "__main__":
    main()
