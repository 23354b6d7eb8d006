# SPDX-License-Identifier: Apache-2.0
"""A softmax with one term more, written out by hand, against transformers' gpt-oss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.layers.attention.one_layer import one_layer

pytestmark = pytest.mark.mcore

LENGTH, BATCH, HEADS, GROUPS, SIZE = 90, 2, 6, 2, 12
SCALE = 0.6
BOUNDS = [0, 1, 41, 90]


def attention(window: int | None, *, dtype: torch.dtype) -> Any:
    from megacpt.model.layers.attention.sinks import SinkAttention

    config = one_layer(heads=HEADS, head_size=SIZE, window=window, params_dtype=dtype)
    module = SinkAttention(config, layer_number=1, softmax_scale=SCALE)
    module.softmax_offset.data.copy_(sinks(torch.float64))
    return module


def sinks(dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-1.0, 3.0, HEADS).to(torch.bfloat16).to(dtype)


def theirs(
    *qkv_SBHD: torch.Tensor, window: int | None, sinks_H: torch.Tensor, bounds: list[int]
) -> torch.Tensor:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    module = torch.nn.Module().eval()
    module.num_key_value_groups = HEADS // GROUPS  # type: ignore[assignment]
    module.sinks = sinks_H  # type: ignore[assignment]
    q, k, v = (x.permute(1, 2, 0, 3) for x in qkv_SBHD)
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    seen = seen if window is None else seen.triu(1 - window)
    document = torch.bucketize(torch.arange(LENGTH), torch.tensor(bounds[1:-1]), right=True)
    seen &= document[:, None] == document[None]
    mask = torch.zeros(LENGTH, LENGTH, dtype=q.dtype).masked_fill(~seen, -torch.inf)
    out, _ = eager_attention_forward(module, q, k, v, mask, scaling=SCALE)
    return out.transpose(0, 1).flatten(2)


def inputs(dtype: torch.dtype, *, batch: int = BATCH) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(LENGTH, batch, n, SIZE) for n in (HEADS, GROUPS, GROUPS)]
    rounded = [torch.randn(shape).to(torch.bfloat16) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in rounded]


def test_no_sink_is_no_small_change(one_rank: None) -> None:
    out = attention(None, dtype=torch.float32)(*inputs(torch.float32), attention_mask=None)
    nothing = torch.full((HEADS,), -1e9, dtype=torch.float64)
    bounds = [0, LENGTH]
    without = theirs(*inputs(torch.float64), window=None, sinks_H=nothing, bounds=bounds)
    assert float((out - without).abs().max()) > 0.1


@pytest.mark.parametrize("window", [None, 25, 7])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_scores_with_a_sink(
    one_rank: None, window: int | None, packed: bool, dtype: torch.dtype, atol: float
) -> None:
    """bf16 keeps eight bits of results of about 2, and of gradients."""
    from megacpt.model.layers.attention.causal import packed_documents

    batch, bounds = (1, BOUNDS) if packed else (BATCH, [0, LENGTH])
    found, expected = inputs(dtype, batch=batch), inputs(torch.float64, batch=batch)
    module, sinks_H = attention(window, dtype=dtype), sinks(torch.float64).requires_grad_()
    if packed:
        documents = packed_documents(torch.tensor(bounds, dtype=torch.int32), longest=49)
        ends = (x.squeeze(1) for x in found)
        out = module(*ends, attention_mask=None, packed_seq_params=documents).unsqueeze(1)
    else:
        out = module(*found, attention_mask=None)
    exact = theirs(*expected, window=window, sinks_H=sinks_H, bounds=bounds)
    torch.manual_seed(1)
    d_out = torch.randn(exact.shape).to(torch.bfloat16)
    out.backward(d_out.to(dtype))
    exact.backward(d_out.double())
    torch.testing.assert_close(out.double(), exact, atol=atol, rtol=atol)
    grads = [x.grad for x in (*found, module.softmax_offset)]
    for ours, other in zip(grads, (*expected, sinks_H), strict=True):
        assert ours is not None
        assert other.grad is not None
        size = float(other.grad.abs().max())
        torch.testing.assert_close(ours.double(), other.grad, atol=atol * size, rtol=atol)


def test_a_gradient_that_is_one_number(one_rank: None) -> None:
    """What a sum sends back has no strides."""
    found, expected = inputs(torch.float32), inputs(torch.float64)
    attention(None, dtype=torch.float32)(*found, attention_mask=None).sum().backward()
    bounds, sinks_H = [0, LENGTH], sinks(torch.float64)
    theirs(*expected, window=None, sinks_H=sinks_H, bounds=bounds).sum().backward()
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.grad, other.grad.float(), atol=2e-5, rtol=1e-5)
