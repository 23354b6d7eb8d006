# SPDX-License-Identifier: Apache-2.0
"""Attention in bf16 as matrix products against torch's own in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from megacpt.model.layers.attention import products
from megacpt.model.layers.attention.products import causal_products

ERROR_MAX = 2.0**-7
"""Of the norm of all values: two roundings to bf16."""
ROWS = 16
SHAPES = {
    "one-block": (16, 16, 2, 4, 2, 8, 8),
    "blocks-of-unequal-length": (40, 40, 2, 4, 2, 8, 8),
    "more-keys-than-queries": (24, 56, 1, 6, 2, 8, 8),
    "one-head-each": (33, 33, 3, 2, 2, 8, 8),
    "values-of-another-size": (33, 33, 2, 4, 4, 12, 8),
    "one-token": (1, 1, 1, 4, 2, 8, 8),
}
Made = tuple[torch.Tensor, ...]


def make(shape: str, *, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    """q, k, v in bf16, the latter parts of one tensor, and the gradient of what they make."""
    S, P, B, H, K, D, E = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    q_SBHD = torch.randn(S, B, H, D, generator=generator)
    kv_PBKX = torch.randn(P, B, K, D + E, generator=generator)
    d_out = torch.randn(S, B, H, E, generator=generator).bfloat16()
    kv = kv_PBKX.bfloat16()
    return [q_SBHD.bfloat16(), kv[..., :D], kv[..., D:]], d_out


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None) -> torch.Tensor:
    return causal_products(q, k_PBKD=k, v_PBKD=v, scale=scale)


def of_torch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None, shift: int = 0
) -> torch.Tensor:
    seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q) + shift)
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
    return out.permute(2, 0, 1, 3)


def result_and_gradients(
    attention: Callable[..., torch.Tensor],
    qkv: list[torch.Tensor],
    d_out: torch.Tensor,
    **how: float | None,
) -> Made:
    leaves = [x.detach().requires_grad_() for x in qkv]
    out = attention(*leaves, **how)
    return (out.detach(), *torch.autograd.grad(out, leaves, d_out.to(out.dtype)))


def errors(found: Made, expected: Made) -> list[float]:
    return [
        float((a.double() - b).norm() / b.norm().clamp_min(1e-12))
        for a, b in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_result_and_gradients_are_those_of_float64(
    shape: str, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "ROWS", ROWS)
    qkv, d_out = make(shape)
    found = result_and_gradients(ours, qkv, d_out, scale=scale)
    wide = [x.double() for x in qkv]
    expected = result_and_gradients(of_torch, wide, d_out, scale=scale)
    # One token sees itself alone: its share is 1, and neither query nor key changes anything.
    compared = slice(0, None, 3) if shape == "one-token" else slice(None)
    assert max(errors(found[compared], expected[compared])) < ERROR_MAX
    assert all(x.dtype is torch.bfloat16 for x in found)
    if shape == "one-token":
        assert not found[1].any()
        assert not found[2].any()


@pytest.mark.parametrize("wrong", [{"scale": 0.35}, {"shift": -1}], ids=["scale", "mask"])
def test_another_scale_or_a_mask_off_by_one_would_be_seen(wrong: dict[str, float]) -> None:
    qkv, d_out = make("more-keys-than-queries")
    found = result_and_gradients(ours, qkv, d_out, scale=0.3)
    how = {"scale": 0.3} | wrong
    expected = result_and_gradients(of_torch, [x.double() for x in qkv], d_out, **how)
    assert min(errors(found, expected)) > 4 * ERROR_MAX


def test_a_query_sees_no_later_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "ROWS", ROWS)
    (q, k, v), _ = make("blocks-of-unequal-length")
    out = ours(q, k, v, scale=None)
    for later in (1, 15, 16, 17, 39):
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[later:], changed_v[later:] = 7.0, -7.0
        changed = ours(q, changed_k, changed_v, scale=None)
        assert torch.equal(changed[:later], out[:later])
        assert not torch.equal(changed[later], out[later])
