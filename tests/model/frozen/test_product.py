# SPDX-License-Identifier: Apache-2.0
"""Products with packed weights are those of bitsandbytes' own layers, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from megacpt.config.sections import BaseWeights
from megacpt.model.frozen.product import packed_linear
from tests.model.frozen.test_packed import pack

INPUTS, OUTPUTS = 128, 96


@pytest.fixture(scope="module")
def nn() -> Any:
    return pytest.importorskip("bitsandbytes").nn


def values(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).half().to(dtype)


def theirs(nn: Any, w_OI: torch.Tensor, *, packing: BaseWeights) -> torch.nn.Module:
    """bitsandbytes packs when a layer is moved."""
    outputs, inputs = w_OI.shape
    if packing is BaseWeights.nf4:
        layer = nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=w_OI.dtype)
        layer.weight = nn.Params4bit(
            w_OI.clone(), requires_grad=False, quant_type="nf4", compress_statistics=False
        )
    else:
        layer = nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
        layer.weight = nn.Int8Params(w_OI.clone(), requires_grad=False, has_fp16_weights=False)
    moved: torch.nn.Module = layer.to("cpu")
    return moved.train()


def with_gradient(product: Any, x: torch.Tensor, *, dy: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = product(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    return [y.detach(), dx]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packing", BaseWeights)
def test_as_bitsandbytes_and_as_the_dense_product(
    nn: Any, packing: BaseWeights, dtype: torch.dtype
) -> None:
    w_OI = values(OUTPUTS, INPUTS, dtype=dtype, seed=1) * 0.05
    w_OI = w_OI.half().to(dtype)
    x, dy = values(5, 3, INPUTS, dtype=dtype, seed=2), values(5, 3, OUTPUTS, dtype=dtype, seed=3)
    weight = pack(w_OI, packing=packing)
    found = with_gradient(lambda x: packed_linear(x, weight=weight), x, dy=dy)
    layer = theirs(nn, w_OI, packing=packing)
    dense = with_gradient(lambda x: linear(x, weight.dense(dtype)), x, dy=dy)
    plain = with_gradient(lambda x: linear(x, w_OI), x, dy=dy)
    rounding = 1e-5 if dtype is torch.float32 else 1e-2
    for expected in (with_gradient(layer, x, dy=dy), dense):
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, atol=rounding, rtol=rounding)
    if packing is BaseWeights.nf4:
        # The error of four bits, which a weight that was not packed would not have.
        assert all((a - b).norm() > 0.05 * b.norm() for a, b in zip(found, plain, strict=True))


def test_nothing_is_kept_for_the_backward_pass(nn: Any) -> None:
    """Neither the input nor the weight in its own type; a bias can be added in place."""
    weight = pack(values(OUTPUTS, INPUTS, dtype=torch.float32, seed=1), packing=BaseWeights.nf4)
    kept: list[torch.Tensor] = []
    x = values(4, INPUTS, dtype=torch.float32, seed=2).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = packed_linear(x, weight=weight)
    assert kept == []
    y += 1.0
    y.sum().backward()
    assert x.grad is not None
