#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0, numpy 2.4.6, Python 3.11, on an x86-64 CPU with AVX2 and without AVX-512 (one thread),
# seen 2026-11-30.
#
# bf16 halves the bytes, and on a CPU that has no instruction for it one expects a product that costs about
# what it does in float32, plus two conversions. It costs 40 to 140 times as much, without a warning: oneDNN
# declines, and torch's own loops take over. For 512 tokens of SmolLM2-135M, GFLOP/s:
#   product                     float32   bfloat16   float32 of widened operands, rounded
#   into the MLP (576 x 1536)      49.4        1.2                                   49.3
#   vocabulary (576 x 49152)       46.5        0.2                                   31.6
# The numbers are the same bits for the first shape. On a CPU with AVX-512 there is nothing to see, and this
# script says so.
#
# megacpt replaces these products where torch says that it has no kernel (megacpt/device/cpu/
# bf16_products.py; tests/device/cpu/test_bf16_products.py holds them to the float32 product, rounded once).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > products.py <<'PY'
import time

import torch

if "AVX512" in torch.backends.cpu.get_cpu_capability():
    raise SystemExit("this CPU has a kernel for bfloat16: nothing to see")
torch.set_num_threads(1)


def best_s(make):
    times = []
    for _ in range(3):
        started_s = time.perf_counter()
        make()
        times.append(time.perf_counter() - started_s)
    return min(times)


for inner, outer in ((576, 1536), (576, 49152)):
    x = torch.randn(512, inner, generator=torch.Generator().manual_seed(0)).bfloat16()
    w = torch.randn(inner, outer, generator=torch.Generator().manual_seed(1)).bfloat16()
    wide_x, wide_w = x.float(), w.float()
    flops = 2 * 512 * inner * outer / 1e9
    plain = flops / best_s(lambda: torch.mm(x, w))
    float32 = flops / best_s(lambda: torch.mm(wide_x, wide_w))
    widened = flops / best_s(lambda: torch.mm(x.float(), w.float()).bfloat16())
    print(f"{inner} x {outer}: float32 {float32:.1f}, bfloat16 {plain:.1f}, widened {widened:.1f}")
    assert widened > 8 * plain, "bfloat16 is no longer many times slower than float32"
print("seen again")
PY
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python products.py
