# SPDX-License-Identifier: Apache-2.0
"""Bounded scores, written out by hand, against transformers' Gemma 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.layers.attention.one_layer import one_layer

pytestmark = pytest.mark.mcore

LENGTH, BATCH, HEADS, GROUPS, SIZE = 90, 2, 6, 2, 16
CAP, SCALE = 1.5, 0.6


@pytest.fixture(autouse=True, scope="module")
def _prepared() -> None:
    from megacpt.device.cpu import import_hook

    import_hook.install()


def attention(window: int | None) -> Any:
    from megacpt.model.layers.attention.capped import capped_class

    config = one_layer(heads=HEADS, head_size=SIZE, window=window)
    return capped_class(CAP)(config, layer_number=1, softmax_scale=SCALE)


def theirs(*qkv_SBHD: torch.Tensor, window: int | None, cap: float | None) -> torch.Tensor:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    module = torch.nn.Module().eval()
    module.num_key_value_groups = HEADS // GROUPS  # type: ignore[assignment]
    q, k, v = (x.permute(1, 2, 0, 3) for x in qkv_SBHD)
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    seen = seen if window is None else seen.triu(1 - window)
    mask = torch.zeros(LENGTH, LENGTH, dtype=q.dtype).masked_fill(~seen, -torch.inf)
    out, _ = eager_attention_forward(module, q, k, v, mask, scaling=SCALE, softcap=cap)
    return out.transpose(0, 1).flatten(2)


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(LENGTH, BATCH, n, SIZE) for n in (HEADS, GROUPS, GROUPS)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("window", [None, 25, 7])
@pytest.mark.parametrize("rows", [8, 64, 256])
def test_bounded_scores(window: int | None, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from megacpt.model.layers.attention import capped

    monkeypatch.setattr(capped, "ROWS", rows)
    found, expected = inputs(torch.float32), inputs(torch.float64)
    out = attention(window)(*found, attention_mask=None)
    exact = theirs(*expected, window=window, cap=CAP)
    torch.manual_seed(1)
    d_out = torch.randn(exact.shape)
    out.backward(d_out)
    exact.backward(d_out.double())
    torch.testing.assert_close(out.double(), exact, atol=2e-6, rtol=1e-5)
    for ours, other in zip(found, expected, strict=True):
        assert ours.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(ours.grad.double(), other.grad, atol=2e-5, rtol=1e-5)
    unbounded = theirs(*inputs(torch.float64), window=window, cap=None)
    assert float((out - unbounded).abs().max()) > 0.1


def test_no_more_scores_are_held_than_of_one_block() -> None:
    """For the backward pass: queries, keys, values and results, all of them small."""
    held: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(None)(*inputs(torch.float32), attention_mask=None)
    assert held
    assert max(held) < LENGTH * LENGTH * BATCH * HEADS
