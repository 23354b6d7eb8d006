# SPDX-License-Identifier: Apache-2.0
"""megatron-core's column- and row-parallel layers with packed weights.

A weight is packed as soon as it has been filled, so that a rank never holds more than one of them
in its own type.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from megacpt.config.sections import BaseWeights
from megacpt.errors import ModelError
from megacpt.model.frozen.packed import PACKED, Packed
from megacpt.model.frozen.product import packed_linear
from megacpt.model.layers.own_product import OwnProduct


class PackedLayer(OwnProduct):
    """What is laid over megatron-core's class."""

    weight: Packed

    def own_product(self, x: torch.Tensor, *, weight: Packed) -> torch.Tensor:
        return packed_linear(x, weight=weight)


class Unpacked(torch.nn.Parameter):
    """Stands for a weight until it is filled: a name, a shape and a type, without memory."""

    layer: Any
    packed: Packed

    @classmethod
    def of(cls, layer: Any, *, packing: BaseWeights) -> Unpacked:
        stand_in = cls(layer.weight.detach().to("meta"), requires_grad=False)
        stand_in.layer, stand_in.packed = layer, PACKED[packing](layer.weight.shape)
        return stand_in

    def put_packed(self, w_OI: torch.Tensor) -> None:
        """Give the layer the packed weight in its own place."""
        rows_are_cut = isinstance(self.layer, RowParallelLinear)
        self.packed.fill(w_OI, row_group=self.layer.tp_group if rows_are_cut else None)
        del self.layer.weight
        self.layer.weight = self.packed


def pack_linears(model: Any, *, packing: BaseWeights) -> None:
    """Have every frozen weight of this chunk's column- and row-parallel layers packed when it is
    filled (megacpt.model.weights); embedding, head, routers and norms stay as they are."""
    frozen = [
        layer
        for layer in model.decoder.modules()
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear)
        and not layer.weight.requires_grad
    ]
    if not frozen:
        raise ModelError(
            f"No weights can be packed as {packing.name}: that is possible in layers made of plain "
            "modules, not in Transformer Engine's; use cluster.device=cpu or do not pack the base."
        )
    for layer in frozen:
        name = f"Packed{type(layer).__name__}"
        layer.__class__ = type(name, (PackedLayer, type(layer)), {})
        layer.weight = Unpacked.of(layer, packing=packing)
