# SPDX-License-Identifier: Apache-2.0
"""A text in a row that it shares gets what it gets alone, in every kind of attention; so does its
last token by keys and values that were kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.model.layers.attention.one_layer import one_layer

pytestmark = pytest.mark.mcore

HEADS, KV_HEADS, SIZE = 4, 2, 8
CASES = [
    ("chunked", None),
    *((kind, window) for kind in ("plain", "capped", "sinks") for window in (None, 1, 7, 24, 100)),
]
TOKENS = 64
PATHS = (
    (slice(0, 30),),
    (slice(0, 19), slice(30, 33)),
    (slice(0, 19), slice(30, 32), slice(33, 50)),
    (slice(50, 51),),
    (slice(51, 64),),
)
"""Where each text of the row lies."""


def attention(kind: str, *, window: int | None) -> Any:
    from megacpt.model.layers.attention.capped import capped_class
    from megacpt.model.layers.attention.causal import CausalAttention
    from megacpt.model.layers.attention.chunked import chunked_class
    from megacpt.model.layers.attention.sinks import SinkAttention

    classes = {
        "plain": CausalAttention,
        "chunked": chunked_class(9),
        "capped": capped_class(1.5),
        "sinks": SinkAttention,
    }
    config = one_layer(heads=HEADS, head_size=SIZE, groups=KV_HEADS, window=window)
    module = classes[kind](config, layer_number=1)
    if kind == "sinks":
        module.softmax_offset.data.copy_(torch.linspace(-1.0, 3.0, HEADS))
    return module


def random_qkv(tokens: int, *, seed: int) -> list[torch.Tensor]:
    """q_T1HD, k_T1KD, v_T1KD."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tokens, 1, n, SIZE, generator=generator) for n in (HEADS, KV_HEADS, KV_HEADS)
    ]


def row() -> Any:
    from megacpt.model.layers.attention.branches import Branch, Branches

    return Branches(
        branches=[Branch(path=path) for path in PATHS], positions_T=torch.arange(TOKENS)
    )


@pytest.mark.parametrize(("kind", "window"), CASES)
@torch.no_grad()
def test_texts_of_a_row_are_as_alone(kind: str, window: int | None, one_rank: None) -> None:
    from megacpt.model.layers.attention.branches import along

    module, qkv = attention(kind, window=window), random_qkv(TOKENS, seed=1)
    module.view = row()
    found = module(*qkv, attention_mask=None)
    module.view = None
    for path in PATHS:
        alone = module(*(along(x, path=path) for x in qkv), attention_mask=None)
        own = path[-1]
        torch.testing.assert_close(found[own], alone[own.start - own.stop :], atol=2e-6, rtol=0)


@pytest.mark.parametrize(("kind", "window"), CASES)
@torch.no_grad()
def test_a_token_more_is_as_in_the_whole_text(
    kind: str, window: int | None, one_rank: None
) -> None:
    """Some tokens after the row's texts, one of which is not asked about any more."""
    from megacpt.model.layers.attention.branches import along
    from megacpt.model.layers.attention.cache import FirstPass, KeyValues, NextPass

    module, qkv = attention(kind, window=window), random_qkv(TOKENS, seed=1)
    texts = {n: [along(x, path=path) for x in qkv] for n, path in enumerate(PATHS)}
    cache = KeyValues(texts=len(PATHS), places=max(len(q) for q, *_ in texts.values()) + 3)
    module.view = FirstPass(branches=row(), cache=cache, paths=dict(enumerate(PATHS)))
    module(*qkv, attention_mask=None)
    for step in range(3):
        if step == 1:
            del texts[2]
            cache.keep([0, 1, 3, 4])
        more = random_qkv(len(texts) + 1, seed=2 + step)
        lengths = [len(q) for q, *_ in texts.values()]
        module.view = NextPass(
            cache=cache,
            lengths_B=torch.tensor(lengths),
            longest=max(lengths),
            positions_T=torch.tensor([*lengths, 0]),
        )
        found = module(*more, attention_mask=None)
        module.view = None
        for place, text in enumerate(texts.values()):
            text[:] = [
                torch.cat([x, m[place : place + 1]]) for x, m in zip(text, more, strict=True)
            ]
            alone = module(*text, attention_mask=None)
            torch.testing.assert_close(found[place], alone[-1], atol=2e-6, rtol=0)
        assert len(found) == len(texts) + 1


def test_own_tokens_fill_the_row() -> None:
    """As Branches wants it."""
    own = [path[-1] for path in PATHS]
    assert all(first.stop == second.start for first, second in pairwise(own))
    assert (own[0].start, own[-1].stop) == (0, TOKENS)
