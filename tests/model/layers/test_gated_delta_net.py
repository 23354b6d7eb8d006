# SPDX-License-Identifier: Apache-2.0
"""The chunked rule is the recurrence token by token, and transformers' rule."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.mcore


def inputs(length: int, *, value_heads_each: int, seed: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(length, 2, *shape, generator=generator, dtype=torch.float64)

    heads, each = 3, value_heads_each
    return {
        "q": draw(heads, 8),
        "k": draw(heads, 8),
        "v": draw(heads, each, 6),
        "log_decay": -draw(heads, each).exp(),
        "beta": draw(heads, each).sigmoid(),
    }


def token_by_token(x: dict[str, torch.Tensor]) -> torch.Tensor:
    """As the paper's equation 10 states it, in float64."""
    q, k = (x[name] / (x[name].pow(2).sum(-1, keepdim=True) + 1e-6).sqrt() for name in "qk")
    length, batch, heads, each, size = x["v"].shape
    state = torch.zeros(batch, heads, each, q.shape[-1], size, dtype=torch.float64)
    outs = []
    for t in range(length):
        state = state * x["log_decay"][t].exp()[..., None, None]
        key = k[t][:, :, None, :, None]
        held = (key * state).sum(-2)
        new = x["beta"][t][..., None] * (x["v"][t] - held)
        state = state + key * new[..., None, :]
        outs.append((q[t][:, :, None, :, None] * state).sum(-2) * q.shape[-1] ** -0.5)
    return torch.stack(outs)


def chunked(x: dict[str, torch.Tensor]) -> torch.Tensor:
    from megacpt.model.layers.gated_delta_net import delta_rule

    f = {name: value.float() for name, value in x.items()}
    return delta_rule(
        f["q"],
        k_SBKD=f["k"],
        v_SBKRE=f["v"],
        log_decay_SBKR=f["log_decay"],
        beta_SBKR=f["beta"],
    )


@pytest.mark.parametrize("length", [1, 63, 64, 150])
@pytest.mark.parametrize("each", [1, 2])
def test_chunks_are_the_recurrence(length: int, each: int) -> None:
    x = inputs(length, value_heads_each=each)
    # Float32 against float64, values of about one.
    torch.testing.assert_close(chunked(x).double(), token_by_token(x), atol=2e-5, rtol=1e-4)


def test_rule_and_its_gradients_are_those_of_transformers() -> None:
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    x = {n: v.float().requires_grad_() for n, v in inputs(100, value_heads_each=2).items()}
    mine = {n: v.detach().clone().requires_grad_() for n, v in x.items()}
    q, k, v, decay, beta = (x[n].transpose(0, 1) for n in ("q", "k", "v", "log_decay", "beta"))
    expected, _ = torch_chunk_gated_delta_rule(
        q,
        k,
        v.flatten(2, 3),
        decay.flatten(2),
        beta.flatten(2),
        use_qk_l2norm_in_kernel=True,
    )
    found = chunked(mine)
    torch.testing.assert_close(found.flatten(2, 3).transpose(0, 1), expected, atol=1e-5, rtol=1e-4)
    expected.square().sum().backward()
    found.square().sum().backward()
    for name, value in x.items():
        assert value.grad is not None
        torch.testing.assert_close(mine[name].grad, value.grad, atol=1e-5, rtol=1e-4, msg=name)
