# SPDX-License-Identifier: Apache-2.0
"""LoRA-XS (arXiv 2405.17604) in plain torch on transformers' model, written from the paper.

The paper has ``h = x W + x A R B`` for x of shape (tokens, in), so W is the transposed ``weight``
of torch: ``W = U S V^T``, ``A = U_r S_r`` (in, r), ``B = V_r^T`` (r, out), singular values
falling. Both are frozen; R (r, r) is trained. A singular pair is known up to its sign only: here
the entry of u with the largest absolute value is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.adapter_cases.training import AdamW, GlobalBatch, Trained, load_base, train


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenFactors:
    """A and B of one matrix, in the paper's orientation."""

    a: torch.Tensor
    b: torch.Tensor


def lora_xs_twin(
    folder: Path,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    start: Mapping[str, torch.Tensor],
    batches: Sequence[GlobalBatch],
    optim: AdamW,
    attention: str = "sdpa",
    prepare: Callable[[Any], None] | None = None,
) -> Trained:
    """Train R of every linear layer whose name ends in one of ``targets``, from ``start``
    (``random_start``); the product is scaled by alpha / rank.

    Keys are names of modules, as ``model.layers.0.self_attn.q_proj``; tensors are R in the paper's
    orientation.
    """
    model = load_base(folder, attention=attention).requires_grad_(False)
    if prepare is not None:
        prepare(model)
    found = targeted(model, targets=targets)
    assert found.keys() == start.keys()
    parameters = {name: torch.nn.Parameter(start[name].clone()) for name in found}
    for name, linear in found.items():
        factors = factors_of(linear.weight, rank=rank)
        linear.register_forward_hook(_hook(parameters[name], factors=factors, scaling=alpha / rank))
    return train(model, parameters=parameters, batches=batches, optim=optim)


def random_start(
    folder: Path,
    *,
    rank: int,
    targets: Sequence[str],
    std: float = 0.1,
    prepare: Callable[[Any], None] | None = None,
    seed: int = 3,
) -> dict[str, torch.Tensor]:
    """R drawn, by name of the module; the paper begins with a standard deviation of 1e-5."""
    model = load_base(folder)
    if prepare is not None:
        prepare(model)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(rank, rank).normal_(0.0, std, generator=generator)
        for name in targeted(model, targets=targets)
    }


def factors_of(weight: torch.Tensor, *, rank: int) -> FrozenFactors:
    """Of torch's ``weight`` (out, in), computed in fp64."""
    u, s, vt = torch.linalg.svd(weight.detach().double().T, full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    largest = u.abs().argmax(dim=0)
    signs = u[largest, torch.arange(rank)].sign()
    return FrozenFactors(
        a=(u * signs * s).to(weight.dtype), b=(signs[:, None] * vt).to(weight.dtype)
    )


def targeted(model: Any, *, targets: Sequence[str]) -> dict[str, torch.nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and any(name == target or name.endswith("." + target) for target in targets)
    }


def _hook(
    r: torch.nn.Parameter, *, factors: FrozenFactors, scaling: float
) -> Callable[..., torch.Tensor]:
    def add(linear: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + scaling * (inputs[0] @ factors.a @ r @ factors.b)

    return add
