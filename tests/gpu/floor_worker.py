# SPDX-License-Identifier: Apache-2.0
"""How long the matrix products of a step take when there is nothing else, on either device.

    python floor_worker.py cpu|gpu SHAPE_JSON

Prints {"step_s": seconds}. Every linear layer's product, its gradient to the input and to the
weight, in bf16, once a layer and microbatch; attention and all else is left out.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from megacpt.config.sections import ClusterConfig, DeviceKind
from megacpt.device import runtime
from megacpt.device.environment import RankInfo

WARMUPS, ROUNDS = 2, 5


def main() -> None:
    device_name, text = sys.argv[1:]
    shape = json.loads(text)
    started = runtime.start(RankInfo(), cluster=ClusterConfig(device=DeviceKind[device_name]))
    microbatch_s = timed_microbatch(shape, device=started.device)
    runtime.stop()
    step_s = microbatch_s * shape["samples"] / shape["micro"]
    sys.stdout.write(json.dumps({"step_s": step_s}))


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


if __name__ == "__main__":
    main()
