# SPDX-License-Identifier: Apache-2.0
"""Activations of the MLP; gated on a CPU without copies: megatron-core's plain one concatenates
halves.

Shapes: R rows of all that comes before it, F both halves of this rank's MLP width, side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.fusions.fused_bias_geglu import quick_gelu
from torch.nn.functional import gelu, silu

from megacpt.config.sections import DeviceKind
from megacpt.families.architecture import BoundedGlu

ROWS = 256
"""Rows worked on at once: what lies between two operations stays in a CPU's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A function, and its gradient from that of its output and its input."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _gelu(approximate: str) -> Activation:
    return Activation(
        forward=partial(gelu, approximate=approximate),
        backward=partial(torch.ops.aten.gelu_backward, approximate=approximate),
    )


SILU = Activation(forward=silu, backward=torch.ops.aten.silu_backward)
ACTIVATIONS = {"silu": SILU, "gelu": _gelu("none"), "gelu_pytorch_tanh": _gelu("tanh")}
"""By the name that Hugging Face gives them."""


def bounded_glu_settings(glu: BoundedGlu, *, kind: DeviceKind) -> dict[str, Any]:
    """What megatron-core is told of it, whose fused kernel has a slope of its own (of 1.702)."""
    swish = quick_gelu if kind is DeviceKind.gpu else partial(_swish, slope=glu.slope)
    return {
        "activation_func": swish,
        "activation_func_clamp_value": glu.limit,
        "glu_linear_offset": 1.0,
    }


def _swish(x: torch.Tensor, *, slope: float) -> torch.Tensor:
    return x * torch.sigmoid(slope * x)


class Gated(torch.nn.Module):
    """activation(gate) * up (https://arxiv.org/abs/2002.05202), keeping only its input for
    backward.

    Takes the place where megatron-core would use Transformer Engine's activation.
    """

    activation = SILU

    def __init__(self, config: object) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Gated.apply(x, self.activation)  # type: ignore[no-untyped-call]
        return out

    def sharded_state_dict(self, *_: object, **__: object) -> dict[str, object]:
        """Nothing to save, but megatron-core asks every module of an MLP."""
        return {}


def gated_class(activation: str) -> type[Gated]:
    """megatron-core builds it from its configuration alone."""
    return type("Gated", (Gated,), {"activation": ACTIVATIONS[activation]})


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        gate, up = x.chunk(2, dim=-1)
        return activation.forward(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        x_RF, d_out_RF = x.flatten(0, -2), d_out.flatten(0, -2)
        d_x_RF = torch.empty_like(x_RF)
        for start in range(0, x_RF.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            gate, up = x_RF[rows].chunk(2, dim=-1)
            d_gate, d_up = d_x_RF[rows].chunk(2, dim=-1)
            torch.mul(d_out_RF[rows], ctx.activation.forward(gate), out=d_up)
            d_gate.copy_(ctx.activation.backward(d_out_RF[rows] * up, gate))
        return d_x_RF.view_as(x), None
