# SPDX-License-Identifier: Apache-2.0
"""The core attention against softmax written out, whole rows and documents of unequal length."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.model.layers.attention.one_layer import one_layer

pytestmark = pytest.mark.mcore

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
BOUNDS = [0, 1, 24, 31, 64]


def attention(*, window: int | None = None) -> Any:
    from megacpt.model.layers.attention.causal import CausalAttention

    config = one_layer(heads=HEADS, head_size=HEAD_DIM, groups=KV_HEADS, window=window)
    return CausalAttention(config, layer_number=1)


def random_qkv(*, seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """q_THD, k_TKD, v_TKD."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(BOUNDS[-1], heads, HEAD_DIM, generator=generator).to(dtype).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def packed(bounds: list[int]) -> Any:
    from megacpt.model.layers.attention.causal import packed_documents

    longest = max(stop - start for start, stop in pairwise(bounds))
    return packed_documents(torch.tensor(bounds, dtype=torch.int32), longest=longest)


def written_out(
    qkv: list[torch.Tensor], bounds: list[int], *, window: int | None = None
) -> torch.Tensor:
    """Softmax over an explicit mask in float64: as if each document were alone."""
    q, k, v = (x.double() for x in qkv)
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    document_T = torch.bucketize(torch.arange(len(q)), torch.tensor(bounds[1:]), right=True)
    seen_TT = (document_T[:, None] == document_T[None, :]).tril()
    seen_TT = seen_TT.triu(diagonal=1 - (window or len(q)))
    scores_HTT = torch.einsum("thd,shd->hts", q, k) / HEAD_DIM**0.5
    weights_HTT = scores_HTT.masked_fill(~seen_TT, -torch.inf).softmax(dim=-1)
    return torch.einsum("hts,shd->thd", weights_HTT, v).flatten(1)


@pytest.mark.parametrize("bounds", [BOUNDS, [0, 64]], ids=["documents", "one-document"])
@pytest.mark.parametrize("window", [None, 1, 7, 24, 63, 64, 100])
def test_documents_equal_the_written_out_softmax(
    bounds: list[int], window: int | None, one_rank: None
) -> None:
    qkv = random_qkv(seed=1)
    found = attention(window=window)(*qkv, None, packed_seq_params=packed(bounds))
    expected = written_out(qkv, bounds, window=window)
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0.0)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    expected_grads = torch.autograd.grad((expected * weight).sum(), qkv)
    grads = torch.autograd.grad((found * weight).sum(), qkv)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=0.0)


def test_rows_without_documents_equal_the_written_out_softmax(one_rank: None) -> None:
    qkv = random_qkv(seed=1)
    rows = [torch.stack([x, x.flip(0)], dim=1) for x in qkv]
    found_SBD = attention()(*rows, None)
    whole = [0, BOUNDS[-1]]
    expected = [written_out(qkv, whole), written_out([x.flip(0) for x in qkv], whole)]
    torch.testing.assert_close(
        found_SBD.double(), torch.stack(expected, dim=1), atol=2e-6, rtol=0.0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_no_bit_of_a_document_depends_on_another(dtype: torch.dtype, one_rank: None) -> None:
    """Outputs and gradients, for each document in turn with all others exchanged."""
    qkv, other = random_qkv(seed=1, dtype=dtype), random_qkv(seed=2, dtype=dtype)
    module, params = attention(), packed(BOUNDS)
    whole = module(*qkv, None, packed_seq_params=params)
    grads = torch.autograd.grad(whole.float().square().sum(), qkv)
    for start, stop in pairwise(BOUNDS):
        mixed = [
            torch.cat([o[:start], x[start:stop], o[stop:]]) for x, o in zip(qkv, other, strict=True)
        ]
        mixed = [x.detach().requires_grad_() for x in mixed]
        out = module(*mixed, None, packed_seq_params=params)
        assert torch.equal(out[start:stop], whole[start:stop])
        mixed_grads = torch.autograd.grad(out.float().square().sum(), mixed)
        for grad, expected in zip(mixed_grads, grads, strict=True):
            assert torch.equal(grad[start:stop], expected[start:stop])
