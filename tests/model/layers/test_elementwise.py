# SPDX-License-Identifier: Apache-2.0
"""Norm and activation, written out by hand, against transformers and torch's own derivatives."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.mcore

SHAPE = (150, 4, 96)
"""More rows than are worked on at once."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True, scope="module")
def _prepared() -> None:
    from megacpt.device.cpu import import_hook

    import_hook.install()


def assert_as_exact_as(found: torch.Tensor, other: torch.Tensor, exact: torch.Tensor) -> None:
    """No further from float64 than a plain implementation, half of a last place aside."""
    scale = exact.norm()
    allowed = 1.1 * (other.double() - exact).norm() / scale + torch.finfo(other.dtype).eps / 4
    assert (found.double() - exact).norm() / scale <= allowed


@DTYPES
def test_rms_norm(dtype: torch.dtype) -> None:
    from megatron.core.transformer import TransformerConfig
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from megacpt.model.layers.norm import Norm

    config = TransformerConfig(
        num_layers=1, hidden_size=SHAPE[-1], num_attention_heads=1, params_dtype=dtype
    )
    ours, theirs = (
        Norm(config, hidden_size=SHAPE[-1], eps=1e-5),
        LlamaRMSNorm(SHAPE[-1], eps=1e-5),
    )
    exact = LlamaRMSNorm(SHAPE[-1], eps=1e-5).double()
    torch.manual_seed(0)
    weight, x, d_out = torch.rand(SHAPE[-1]), torch.randn(SHAPE), torch.randn(SHAPE)
    results = []
    for norm in (ours, theirs.to(dtype), exact):
        wide = norm is exact
        norm.weight.data.copy_(weight.to(dtype))
        given = x.to(dtype).double() if wide else x.to(dtype)
        given = given.detach().clone().requires_grad_()
        # transformers rounds to float32 inside, so the exact one is spelled out.
        out = _exact_norm(given, exact.weight) if wide else norm(given)
        out.backward(d_out.to(dtype).to(out.dtype))
        assert given.grad is not None
        assert norm.weight.grad is not None
        results.append((out.detach(), given.grad, norm.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    for found, other, truth in zip(*results, strict=True):
        assert_as_exact_as(found, other, truth)


def _exact_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


@DTYPES
def test_swiglu(dtype: torch.dtype) -> None:
    from megacpt.model.layers.activation import Gated

    torch.manual_seed(0)
    x, d_out = 3 * torch.randn(*SHAPE[:-1], 64), torch.randn(*SHAPE[:-1], 32)
    results = []
    for kind in ("ours", "plain", "exact"):
        given = x.to(dtype).to(torch.float64 if kind == "exact" else dtype)
        given = given.detach().clone().requires_grad_()
        gate, up = given.chunk(2, dim=-1)
        out = Gated(None)(given) if kind == "ours" else torch.nn.functional.silu(gate) * up
        out.backward(d_out.to(dtype).to(out.dtype))
        assert given.grad is not None
        results.append((out.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    for found, other, truth in zip(*results, strict=True):
        assert_as_exact_as(found, other, truth)
