# SPDX-License-Identifier: Apache-2.0
"""How long the matrix products of a step take when there is nothing else, on either device.

WORK_DIR/floor.json gets {"step_s": seconds}. Every linear layer's product, its gradient to the
input and to the weight, in bf16, once a layer and microbatch; attention and all else is left out.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo

WARMUPS, ROUNDS = 2, 5


def write_floor(work: Path, cases: dict[str, Any]) -> None:
    shape, device = cases["shape"], DeviceKind[cases["device"]]
    started = runtime.start(RankInfo(), cluster=ClusterConfig(device=device))
    microbatch_s = timed_microbatch(shape, device=started.device)
    runtime.stop()
    step_s = microbatch_s * shape["samples"] / shape["micro"]
    (work / "floor.json").write_text(json.dumps({"step_s": step_s}))


def linear_layers(shape: dict[str, int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many of them) of the whole model."""
    head_dim = shape["hidden"] // shape["heads"]
    qkv = (shape["heads"] + 2 * shape["kv_heads"]) * head_dim
    return [
        (shape["hidden"], qkv, shape["layers"]),
        (shape["hidden"], shape["hidden"], shape["layers"]),
        (shape["hidden"], 2 * shape["mlp"], shape["layers"]),
        (shape["mlp"], shape["hidden"], shape["layers"]),
        (shape["hidden"], shape["vocabulary"], 1),
    ]


def timed_microbatch(shape: dict[str, int], *, device: torch.device) -> float:
    """The fastest of a few rounds, in seconds."""
    tokens = shape["length"] * shape["micro"]
    products = []
    for inputs, outputs, count in linear_layers(shape):
        # A weight of its own each time, so that a cache holds no more of them than in a model.
        weights = [random_matrix(outputs, inputs, device=device) for _ in range(count)]
        x = random_matrix(tokens, inputs, device=device)
        dy = random_matrix(tokens, outputs, device=device)
        products.append((weights, x, dy))
    times_s = []
    for _ in range(WARMUPS + ROUNDS):
        runtime.synchronize(device)
        started_s = time.perf_counter()
        for weights, x, dy in products:
            for weight in weights:
                torch.mm(x, weight.t())
                torch.mm(dy, weight)
                torch.mm(dy.t(), x)
        runtime.synchronize(device)
        times_s.append(time.perf_counter() - started_s)
    return min(times_s[WARMUPS:])


def random_matrix(rows: int, columns: int, *, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, columns, device=device).bfloat16()
