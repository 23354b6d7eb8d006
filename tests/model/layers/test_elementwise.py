# SPDX-License-Identifier: Apache-2.0
"""Norm and activation, written out by hand, against transformers and torch's own derivatives."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

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


NORMS = {
    "llama": ("llama.modeling_llama.LlamaRMSNorm", {}),
    "olmo2": ("olmo2.modeling_olmo2.Olmo2RMSNorm", {"scaled_wide": True}),
    "gemma2": (
        "gemma2.modeling_gemma2.Gemma2RMSNorm",
        {"scaled_wide": True, "plus_one": True},
    ),
    "cohere2": (
        "cohere2.modeling_cohere2.Cohere2LayerNorm",
        {"scaled_wide": True, "centred": True},
    ),
    "starcoder2": (
        "starcoder2.modeling_starcoder2.nn.LayerNorm",
        {"scaled_wide": True, "centred": True, "bias": True},
    ),
}
"""Family -> class in transformers, how it norms."""


@DTYPES
@pytest.mark.parametrize("family", NORMS)
def test_norm(family: str, dtype: torch.dtype) -> None:
    from megatron.core.transformer import TransformerConfig

    from megacpt.families.architecture import Norms
    from megacpt.model.layers.norm import norm_class

    config = TransformerConfig(
        num_layers=1, hidden_size=SHAPE[-1], num_attention_heads=1, params_dtype=dtype
    )
    name, flags = NORMS[family]
    norms = Norms(**flags)
    module, _, attributes = name.partition(".modeling_")
    theirs_class = attrgetter(attributes.partition(".")[2])(
        import_module(f"transformers.models.{module}.modeling_{module}")
    )
    ours = norm_class(norms)(config, hidden_size=SHAPE[-1], eps=1e-3)
    theirs = theirs_class(SHAPE[-1], eps=1e-3).to(dtype)
    torch.manual_seed(0)
    weight, bias, x = torch.rand(SHAPE[-1]), torch.rand(SHAPE[-1]), 0.3 + torch.randn(SHAPE)
    d_out = torch.randn(SHAPE).to(dtype)
    results = []
    for norm in (ours, theirs, _Exact(norms)):
        given = x.to(dtype).to(torch.float64 if isinstance(norm, _Exact) else dtype)
        given = given.detach().clone().requires_grad_()
        for parameter_name, parameter in norm.named_parameters():
            first = weight if parameter_name == "weight" else bias
            parameter.data.copy_(first.to(dtype))
        out = norm(given)
        out.backward(d_out.to(out.dtype))
        grads = [parameter.grad for parameter in norm.parameters()]
        assert given.grad is not None
        assert len(grads) == 1 + norms.bias
        results.append((out.detach(), given.grad, *grads))
    if family == "starcoder2":  # torch's own sums in another order
        last_place = torch.finfo(dtype).eps
        close = {"atol": 4 * last_place, "rtol": last_place}
        torch.testing.assert_close(results[0][0], results[1][0], **close)
    else:
        assert torch.equal(results[0][0], results[1][0])
    for found, other, truth in zip(*results, strict=True):
        assert_as_exact_as(found, other, truth)


class _Exact(torch.nn.Module):
    """Spelled out: transformers rounds to float32 inside."""

    def __init__(self, norms: Any) -> None:
        super().__init__()
        self.norms = norms
        self.weight = torch.nn.Parameter(torch.empty(SHAPE[-1], dtype=torch.float64))
        if norms.bias:
            self.bias = torch.nn.Parameter(torch.empty(SHAPE[-1], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norms.centred:
            x = x - x.mean(-1, keepdim=True)
        out = (self.weight + self.norms.plus_one) * x
        out = out * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)
        return out + self.bias if self.norms.bias else out


@DTYPES
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_gated_activation(name: str, dtype: torch.dtype) -> None:
    from transformers.activations import ACT2FN

    from megacpt.model.layers.activation import gated_class

    torch.manual_seed(0)
    x, d_out = 3 * torch.randn(*SHAPE[:-1], 64), torch.randn(*SHAPE[:-1], 32)
    results = []
    for kind in ("ours", "plain", "exact"):
        given = x.to(dtype).to(torch.float64 if kind == "exact" else dtype)
        given = given.detach().clone().requires_grad_()
        gate, up = given.chunk(2, dim=-1)
        out = gated_class(name)(None)(given) if kind == "ours" else ACT2FN[name](gate) * up
        out.backward(d_out.to(dtype).to(out.dtype))
        assert given.grad is not None
        results.append((out.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    for found, other, truth in zip(*results, strict=True):
        assert_as_exact_as(found, other, truth)
