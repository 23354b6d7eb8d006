# SPDX-License-Identifier: Apache-2.0
"""The rows of a mixture of experts in place of a layer's MLP: a router and the experts' matrices,
an MLP that all tokens pass beside them, and the MLP of layers without experts.

A folder holds each matrix of each expert as a tensor of its own. transformers 5 holds the experts
of a layer as one tensor in memory, gate above up, and saves it so if told to
(``save_original_format=False``): those tensors have the same names in every family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture, Experts
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import HfTensor, Param, Part, Role

_NATIVE = "decoder.layers.{layer}.mlp"
_STACKED = "model.layers.{layer}.mlp"


def read(
    config: HfConfig, *, num: int, per_token: int, renormalised: bool, fewest: int = 2
) -> Experts:
    """``num``, ``per_token``: the family's defaults; ``fewest``: experts of a token."""
    experts = Experts(
        num=config.integer("num_local_experts", default=num),
        per_token=config.integer("num_experts_per_tok", default=per_token),
        balance_coefficient=config.number("router_aux_loss_coef", default=0.001),
        renormalised=renormalised,
    )
    # One expert a token may always have the weight 1, so that its router could not learn.
    config.require_between(
        "num_experts_per_tok", value=experts.per_token, low=fewest, high=experts.num
    )
    config.require_between("router_aux_loss_coef", value=experts.balance_coefficient, low=0, high=1)
    return experts


def with_dense_layers(
    experts: Experts, *, config: HfConfig, layers: tuple[int, ...], ffn_hidden_size: int
) -> Experts:
    """The same in a model of which ``layers`` have one MLP each, of that size."""
    num = config.integer("num_hidden_layers")
    dense = tuple(layer for layer in range(num) if layer in layers)
    if len(dense) == num:
        raise ModelError(
            f"{config.path} leaves none of {num} layers with experts; state model_type and sizes "
            "of a model without them."
        )
    if not dense:
        return experts
    return replace(experts, dense_layers=dense, dense_ffn_hidden_size=ffn_hidden_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a family calls the parts of its mixture; ``{layer}`` open in ``folder``."""

    folder: str
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_experts"
    router: str = "gate"
    stacked: str = _STACKED
    """Where the experts of a layer are one tensor."""
    transposed: bool = False
    """There, inputs before outputs."""
    alternating: bool = False
    """There, gate and up in turn; else the gate above the up."""

    def rows(self) -> tuple[Param, ...]:
        rows = (*self._router(), *self._experts(), *self._shared())
        of_experts = (replace(row, in_layer=Architecture.has_experts) for row in rows)
        dense = (_of_dense_layers(row, folder=self.folder) for row in llama.MLP)
        return (*dense, *of_experts)

    def _router(self) -> Iterator[Param]:
        weight = HfTensor(name=f"{self.folder}.{self.router}.weight", dims=("experts", "hidden"))
        bias = HfTensor(name=f"{self.folder}.gate.e_score_correction_bias", dims=("experts",))
        router = Param(native=f"{_NATIVE}.router.weight", role=Role.router, sources=(weight,))
        yield router
        yield _bias_of(router)
        yield Param(
            native=f"{_NATIVE}.router.expert_bias",
            role=Role.bias,
            sources=(bias,),
            frozen=True,
            present=lambda a: a.experts is not None and a.experts.routing.correction_bias,
        )

    def _experts(self) -> Iterator[Param]:
        folder = f"{self.folder}.experts.{{expert}}"
        gate, up, down = self._matrices(folder, size="ffn")
        yield from _expert("linear_fc1", gate, up, tp_dim=0)
        yield from _expert("linear_fc2", down, tp_dim=1)

    def _shared(self) -> Iterator[Param]:
        folder, native = f"{self.folder}.{self.shared}", f"{_NATIVE}.shared_experts"
        gate, up, down = self._matrices(folder, size="shared_ffn")
        first, second = f"{native}.linear_fc1.weight", f"{native}.linear_fc2.weight"
        yield Param(native=first, sources=(gate, up), tp_dim=0, present=_has_shared)
        yield Param(native=second, sources=(down,), tp_dim=1, present=_has_shared)
        yield Param(
            native=f"{native}.gate_weight",
            sources=(HfTensor(name=f"{folder}_gate.weight", dims=("one", "hidden")),),
            role=Role.router,
            present=lambda a: a.experts is not None and a.experts.shared_gate,
        )

    def _matrices(self, folder: str, *, size: str) -> tuple[HfTensor, HfTensor, HfTensor]:
        gate, up = (
            HfTensor(name=f"{folder}.{name}.weight", dims=(size, "hidden"))
            for name in (self.gate, self.up)
        )
        return gate, up, HfTensor(name=f"{folder}.{self.down}.weight", dims=("hidden", size))

    def parts(self, architecture: Architecture) -> dict[str, Part]:
        """Where each tensor of the mixture lies in a folder of the other layout."""
        return {
            name: part
            for layer in range(architecture.num_layers)
            if architecture.has_experts(layer)
            for name, part in self._parts_of_layer(architecture, layer=layer)
        }

    def _parts_of_layer(
        self, architecture: Architecture, *, layer: int
    ) -> Iterator[tuple[str, Part]]:
        assert architecture.experts is not None
        num, hidden = architecture.experts.num, architecture.hidden_size
        ffn = architecture.ffn_hidden_size
        folder, stacked = (name.format(layer=layer) for name in (self.folder, self.stacked))
        router = f"{self.router}.weight"
        yield f"{folder}.{router}", Part(name=f"{stacked}.{router}", shape=(num, hidden))
        up = Part(name=f"{stacked}.experts.gate_up_proj", shape=(num, 2 * ffn, hidden))
        if self.alternating:
            up = replace(up, rows=1, group=2)
        down = Part(name=f"{stacked}.experts.down_proj", shape=(num, hidden, ffn))
        for expert in range(num):
            for name, whole, start in (
                (self.gate, up, 0),
                (self.up, up, 1 if self.alternating else ffn),
                (self.down, down, 0),
            ):
                part = replace(whole, index=expert, start=start)
                yield f"{folder}.experts.{expert}.{name}.weight", self._turned(part)
                if architecture.mlp_bias:
                    bias = replace(part, name=f"{part.name}_bias", shape=part.shape[:2])
                    yield f"{folder}.experts.{expert}.{name}.bias", bias

    def _turned(self, part: Part) -> Part:
        if not self.transposed:
            return part
        num, outputs, inputs = part.shape
        return replace(part, shape=(num, inputs, outputs), transposed=True)


def _has_shared(architecture: Architecture) -> bool:
    return architecture.experts is not None and bool(architecture.experts.shared_ffn_hidden_size)


def _of_dense_layers(row: Param, *, folder: str) -> Param:
    """Llama's row of an MLP, in the layers that have no experts."""
    sources = tuple(
        replace(
            source,
            name=source.name.replace(_STACKED, folder),
            dims=tuple("dense_ffn" if dim == "ffn" else dim for dim in source.dims),
        )
        for source in row.sources
    )
    return replace(
        row,
        sources=sources,
        present=lambda a: row.present(a) and a.experts is not None and bool(a.experts.dense_layers),
        in_layer=lambda a, layer: not a.has_experts(layer),
    )


def _expert(linear: str, *sources: HfTensor, tp_dim: int) -> Iterator[Param]:
    weight = Param(
        native=f"{_NATIVE}.experts.local_experts.{{expert}}.{linear}.weight",
        engine=f"{_NATIVE}.experts.{linear}.weight{{expert}}",
        sources=sources,
        tp_dim=tp_dim,
    )
    yield weight
    yield _bias_of(weight)


def _bias_of(row: Param) -> Param:
    """Of the same layer, where the family has biases there."""
    return replace(
        row,
        native=_of_bias(row.native),
        engine=row.engine and _of_bias(row.engine),
        sources=tuple(
            replace(source, name=_of_bias(source.name), dims=source.dims[:1])
            for source in row.sources
        ),
        role=Role.bias,
        tp_dim=0 if row.tp_dim == 0 else None,
        present=lambda a: a.mlp_bias,
    )


def _of_bias(weight: str) -> str:
    return weight.replace(".weight", ".bias")
