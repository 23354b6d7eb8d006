# SPDX-License-Identifier: Apache-2.0
"""megatron-core's column- and row-parallel layers with quantised products.

Everything but the product stays megatron-core's: how weights are cut, checkpointed and
communicated about. As in Transformer Engine, what a sequence-parallel layer gathers is quantised as
a whole, and what it scatters is a sum of higher precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from megacpt.model.layers.own_product import OwnProduct
from megacpt.model.quantise.delayed import AmaxLedger, DelayedScaling
from megacpt.model.quantise.product import quantised_linear
from megacpt.model.quantise.recipes import Operands, Pass, Quantiser


class QuantisedProduct:
    """The recipe at one layer, with its quantised weight while that is known not to change."""

    def __init__(self, quantiser: Quantiser) -> None:
        self.quantiser = quantiser
        self.keeps_weight = False
        self._weight: Operands | None = None

    def __call__(self, x: torch.Tensor, *, w_OI: torch.Tensor, training: bool) -> torch.Tensor:
        """``training``: whether the layer is; without gradients it then is a rehearsal."""
        during = Pass.training if torch.is_grad_enabled() else Pass.rehearsal
        during = during if training else Pass.evaluation
        with torch.no_grad():
            activation = self.quantiser.activation(x.reshape(-1, x.shape[-1]), during=during)
            weight = self._quantised_weight(w_OI, during=during)
        return quantised_linear(
            x, w_OI=w_OI, activation=activation, weight=weight, quantiser=self.quantiser
        )

    def _quantised_weight(self, w_OI: torch.Tensor, *, during: Pass) -> Operands:
        if self._weight is not None:
            return self._weight
        weight = self.quantiser.weight(w_OI.detach(), during=during)
        self._weight = weight if self.keeps_weight else None
        return weight

    def end(self) -> None:
        """The passes over one batch are over: weights may change."""
        self.keeps_weight, self._weight = False, None
        if isinstance(self.quantiser, DelayedScaling):
            self.quantiser.forget_rehearsals()


class QuantisedLayer(OwnProduct):
    """What is laid over megatron-core's class."""

    product: QuantisedProduct

    def own_product(self, x: torch.Tensor, *, weight: torch.Tensor) -> torch.Tensor:
        return self.product(x, w_OI=weight, training=self.training)

    def get_extra_state(self) -> Any:
        """Under the key of Transformer Engine's own state of a layer; None where there is none."""
        quantiser = self.product.quantiser
        return quantiser.state() if isinstance(quantiser, DelayedScaling) else None

    def set_extra_state(self, state: Any) -> None:
        quantiser = self.product.quantiser
        if isinstance(quantiser, DelayedScaling) and isinstance(state, dict):
            quantiser.load(state)


def quantise_linears(module: torch.nn.Module, *, make: Callable[[], Quantiser]) -> None:
    """Give every column- and row-parallel layer in ``module`` a recipe of its own."""
    for layer in module.modules():
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear):
            name = f"Quantised{type(layer).__name__}"
            layer.__class__ = type(name, (QuantisedLayer, type(layer)), {})
            layer.product = QuantisedProduct(make())


@contextmanager
def unchanging_weights(chunks: Sequence[Any]) -> Iterator[None]:
    """Inside, no weight changes, so each is quantised once, in the first pass that needs it.

    That is also when delayed scaling counts it, as in Transformer Engine.
    """
    products = [
        module.product
        for chunk in chunks
        for module in chunk.modules()
        if isinstance(module, QuantisedLayer)
    ]
    for product in products:
        product.keeps_weight = True
    try:
        yield
        for ledger in _ledgers(chunks):
            ledger.close()
    finally:
        for product in products:
            product.end()


def watch_histories(model: Any) -> None:
    """Bring the histories of delayed scaling up to date with each pass through ``model``."""
    layers = [
        module.product.quantiser
        for module in model.decoder.modules()
        if isinstance(module, QuantisedLayer)
        and isinstance(module.product.quantiser, DelayedScaling)
    ]
    if layers:
        model.decoder.amax_ledger = AmaxLedger(layers)
        model.decoder.amax_ledger.watch(model.decoder)


def _ledgers(chunks: Sequence[Any]) -> list[AmaxLedger]:
    return [
        module.amax_ledger
        for chunk in chunks
        for module in chunk.modules()
        if hasattr(module, "amax_ledger")
    ]
