# SPDX-License-Identifier: Apache-2.0
"""Mixtral: Llama with a mixture of experts for its MLP, and no biases.

The router takes the softmax over all experts and renormalises it over those chosen, which is the
softmax over the chosen alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megacpt.families import llama
from megacpt.families.architecture import Architecture, Experts
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import HfTensor, Param, Part, Role

MODEL_TYPE = "mixtral"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
}
"""transformers' MixtralConfig, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}
_NATIVE = "decoder.layers.{layer}.mlp"
_HF = "model.layers.{layer}.block_sparse_moe"
_STACKED = "model.layers.{layer}.mlp"
"""Under this name transformers 5 holds the mixture in memory, and saves it if told to
(``save_original_format=False``): the experts of a layer as one tensor, gate above up."""


def read(config: HfConfig) -> Architecture:
    config.require("router_jitter_noise", wanted=0.0, default=0.0)
    experts = Experts(
        num=config.integer("num_local_experts", default=8),
        per_token=config.integer("num_experts_per_tok", default=2),
        balance_coefficient=config.number("router_aux_loss_coef", default=0.001),
    )
    # One expert a token would always have the weight 1, so that its router could not learn.
    config.require_between("num_experts_per_tok", value=experts.per_token, low=2, high=experts.num)
    config.require_between("router_aux_loss_coef", value=experts.balance_coefficient, low=0, high=1)
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    window = config.values.get("sliding_window")
    return replace(
        llama.read(as_llama),
        family=MODEL_TYPE,
        experts=experts,
        sliding_window=None if window is None else config.integer("sliding_window"),
    )


def _expert(linear: str, *sources: HfTensor, tp_dim: int) -> Param:
    return Param(
        native=f"{_NATIVE}.experts.local_experts.{{expert}}.{linear}.weight",
        engine=f"{_NATIVE}.experts.{linear}.weight{{expert}}",
        sources=sources,
        tp_dim=tp_dim,
    )


def _source(name: str, *dims: str) -> HfTensor:
    return HfTensor(name=f"{_HF}.experts.{{expert}}.{name}.weight", dims=dims)


_GATE, _UP, _DOWN = "w1", "w3", "w2"
PARAMS = (
    *llama.BEFORE_MLP,
    Param(
        native=f"{_NATIVE}.router.weight",
        role=Role.router,
        sources=(HfTensor(name=f"{_HF}.gate.weight", dims=("experts", "hidden")),),
    ),
    _expert("linear_fc1", _source(_GATE, "ffn", "hidden"), _source(_UP, "ffn", "hidden"), tp_dim=0),
    _expert("linear_fc2", _source(_DOWN, "hidden", "ffn"), tp_dim=1),
    *llama.AFTER_LAYERS,
)


def parts(architecture: Architecture) -> dict[str, Part]:
    """Where each tensor of the mixture lies in a folder of the other layout."""
    return {
        name: part
        for layer in range(architecture.num_layers)
        for name, part in _parts_of_layer(architecture, layer=layer)
    }


def _parts_of_layer(architecture: Architecture, *, layer: int) -> Iterator[tuple[str, Part]]:
    assert architecture.experts is not None
    num, hidden = architecture.experts.num, architecture.hidden_size
    ffn = architecture.ffn_hidden_size
    hf, stacked = _HF.format(layer=layer), _STACKED.format(layer=layer)
    yield f"{hf}.gate.weight", Part(name=f"{stacked}.gate.weight", shape=(num, hidden))
    up, down = (num, 2 * ffn, hidden), (num, hidden, ffn)
    for expert in range(num):
        for name, whole, shape, start in (
            (_GATE, "gate_up_proj", up, 0),
            (_UP, "gate_up_proj", up, ffn),
            (_DOWN, "down_proj", down, 0),
        ):
            yield (
                f"{hf}.experts.{expert}.{name}.weight",
                Part(name=f"{stacked}.experts.{whole}", shape=shape, index=expert, start=start),
            )
