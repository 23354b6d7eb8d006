# SPDX-License-Identifier: Apache-2.0
"""The rows of a mixture of experts in place of a layer's MLP: a router and the experts' matrices.

A folder holds each matrix of each expert as a tensor of its own. transformers 5 holds the experts
of a layer as one tensor in memory, gate above up, and saves it so if told to
(``save_original_format=False``): those tensors have the same names in every family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megacpt.families.architecture import Architecture, Experts
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import HfTensor, Param, Part, Role

_NATIVE = "decoder.layers.{layer}.mlp"
_STACKED = "model.layers.{layer}.mlp"


def read(config: HfConfig, *, num: int, per_token: int, renormalised: bool) -> Experts:
    """``num``, ``per_token``: the family's defaults."""
    experts = Experts(
        num=config.integer("num_local_experts", default=num),
        per_token=config.integer("num_experts_per_tok", default=per_token),
        balance_coefficient=config.number("router_aux_loss_coef", default=0.001),
        renormalised=renormalised,
    )
    # One expert a token would always have the weight 1, so that its router could not learn.
    config.require_between("num_experts_per_tok", value=experts.per_token, low=2, high=experts.num)
    config.require_between("router_aux_loss_coef", value=experts.balance_coefficient, low=0, high=1)
    return experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a family calls the parts of its mixture; ``{layer}`` open in ``folder``."""

    folder: str
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"

    def rows(self) -> tuple[Param, ...]:
        gate, up = (self._source(name, "ffn", "hidden") for name in (self.gate, self.up))
        router = HfTensor(name=f"{self.folder}.gate.weight", dims=("experts", "hidden"))
        return (
            Param(native=f"{_NATIVE}.router.weight", role=Role.router, sources=(router,)),
            _expert("linear_fc1", gate, up, tp_dim=0),
            _expert("linear_fc2", self._source(self.down, "hidden", "ffn"), tp_dim=1),
        )

    def _source(self, name: str, *dims: str) -> HfTensor:
        return HfTensor(name=f"{self.folder}.experts.{{expert}}.{name}.weight", dims=dims)

    def parts(self, architecture: Architecture) -> dict[str, Part]:
        """Where each tensor of the mixture lies in a folder of the other layout."""
        return {
            name: part
            for layer in range(architecture.num_layers)
            for name, part in self._parts_of_layer(architecture, layer=layer)
        }

    def _parts_of_layer(
        self, architecture: Architecture, *, layer: int
    ) -> Iterator[tuple[str, Part]]:
        assert architecture.experts is not None
        num, hidden = architecture.experts.num, architecture.hidden_size
        ffn = architecture.ffn_hidden_size
        folder, stacked = self.folder.format(layer=layer), _STACKED.format(layer=layer)
        yield f"{folder}.gate.weight", Part(name=f"{stacked}.gate.weight", shape=(num, hidden))
        up, down = (num, 2 * ffn, hidden), (num, hidden, ffn)
        for expert in range(num):
            for name, whole, shape, start in (
                (self.gate, "gate_up_proj", up, 0),
                (self.up, "gate_up_proj", up, ffn),
                (self.down, "down_proj", down, 0),
            ):
                yield (
                    f"{folder}.experts.{expert}.{name}.weight",
                    Part(name=f"{stacked}.experts.{whole}", shape=shape, index=expert, start=start),
                )


def _expert(linear: str, *sources: HfTensor, tp_dim: int) -> Param:
    return Param(
        native=f"{_NATIVE}.experts.local_experts.{{expert}}.{linear}.weight",
        engine=f"{_NATIVE}.experts.{linear}.weight{{expert}}",
        sources=sources,
        tp_dim=tp_dim,
    )
