# SPDX-License-Identifier: Apache-2.0
"""Attention within chunks against transformers' own mask of chunks, documents apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from megacpt.errors import ModelError
from megacpt.families import FAMILIES
from megacpt.plan.families import example_of
from tests.model.layers.attention.one_layer import one_layer
from tests.model.layers.attention.test_causal import BOUNDS, HEADS, KV_HEADS, packed, random_qkv

pytestmark = pytest.mark.mcore

WHOLE = [0, BOUNDS[-1]]


def attention(chunk: int) -> Any:
    from megacpt.model.layers.attention.chunked import chunked_class

    config = one_layer(heads=HEADS, head_size=32 // HEADS)
    return chunked_class(chunk)(config, layer_number=1)


def mask_of_transformers(length: int, *, chunk: int) -> torch.Tensor:
    from transformers.masking_utils import chunked_causal_mask_function

    sees = chunked_causal_mask_function(chunk, torch.zeros(1, dtype=torch.int64))
    rows = torch.arange(length)
    mask: torch.Tensor = sees(0, 0, rows[:, None], rows[None, :])
    return mask


def expected(qkv: list[torch.Tensor], bounds: list[int], *, chunk: int) -> torch.Tensor:
    """Each document by itself, in float64."""
    outs = []
    for start, stop in pairwise(bounds):
        q, k, v = (x[start:stop].double() for x in qkv)
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
        scores_HTT = torch.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
        mask_TT = mask_of_transformers(stop - start, chunk=chunk)
        shares_HTT = scores_HTT.masked_fill(~mask_TT, -torch.inf).softmax(dim=-1)
        outs.append(torch.einsum("hts,shd->thd", shares_HTT, v).flatten(1))
    return torch.cat(outs)


@pytest.mark.parametrize("bounds", [BOUNDS, WHOLE], ids=["documents", "one-document"])
@pytest.mark.parametrize("chunk", [1, 7, 16, 63, 64, 100])
def test_documents_are_cut_from_their_first_token_on(
    bounds: list[int], chunk: int, one_rank: None
) -> None:
    qkv = random_qkv(seed=1)
    found = attention(chunk)(*qkv, None, packed_seq_params=packed(bounds))
    exact = expected(qkv, bounds, chunk=chunk)
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=0.0)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad((found * weight).sum(), qkv)
    for grad, other in zip(grads, torch.autograd.grad((exact * weight).sum(), qkv), strict=True):
        torch.testing.assert_close(grad, other, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("before", [0, 3, 16, 31, 48])
def test_queries_of_a_part_of_the_sample_see_their_chunks(before: int, one_rank: None) -> None:
    """As of context parallelism, whose parts need not begin where chunks do."""
    q, k, v = (x.unsqueeze(1) for x in random_qkv(seed=1))
    whole = attention(16)(q, k, v, None)
    part = attention(16).causal(q[before:50], k_SBKD=k[:50], v_SBKD=v[:50])
    torch.testing.assert_close(part, whole[before:50])


def test_longer_samples_are_refused_where_layers_know_no_chunks() -> None:
    from megacpt.model.layers.attention.chunked import require_one_chunk

    llama4 = example_of(FAMILIES["llama4_text"])
    require_one_chunk(llama4, sequence_length=8192)
    require_one_chunk(example_of(FAMILIES["llama"]), sequence_length=9000)
    with pytest.raises(ModelError, match=r"data.sequence_length=8193 is above attention_chunk_s"):
        require_one_chunk(llama4, sequence_length=8193)
