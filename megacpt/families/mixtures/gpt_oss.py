# SPDX-License-Identifier: Apache-2.0
"""gpt-oss: Llama with biases everywhere and experts, whose gate and up are bounded; each head's
softmax has a learned term more, its sink; every second layer has a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megacpt.families.architecture import Architecture, BoundedGlu, Norms
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import mixture
from megacpt.families.weights import HfTensor, Param, Part, Role

MODEL_TYPE = "gpt_oss"

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 150000.0,
    "attention_bias": True,
}
"""transformers' GptOssConfig, where it differs from LlamaConfig."""
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_MIXTURE = mixture.Mixture(folder="model.layers.{layer}.mlp", router="router")
_SINKS = Param(
    native="decoder.layers.{layer}.self_attention.core_attention.softmax_offset",
    sources=(HfTensor(name="model.layers.{layer}.self_attn.sinks", dims=("heads",)),),
    role=Role.bias,
    tp_dim=0,
)
PARAMS = (*llama.BEFORE_MLP, _SINKS, *_MIXTURE.rows(), *llama.AFTER_LAYERS)


def read(config: HfConfig) -> Architecture:
    values = {**_DEFAULTS, **config.values, "mlp_bias": True}
    if not config.stated_rope()[1]:
        values["rope_parameters"] = _ROPE
    architecture = llama.read(HfConfig(path=config.path, values=values))
    return replace(
        architecture,
        family=MODEL_TYPE,
        experts=mixture.read(config, num=128, per_token=4, renormalised=True),
        norms=Norms(scaled_wide=True),
        sinks=True,
        bounded_glu=BoundedGlu(
            slope=config.number("swiglu_alpha", default=1.702),
            limit=config.number("swiglu_limit", default=7.0),
        ),
        sliding_window=config.local_window(default=128),
        full_attention_layers=config.full_attention_layers(
            num=architecture.num_layers, default=lambda layer: layer % 2 == 1
        ),
    )


def parts(architecture: Architecture) -> dict[str, Part]:
    """A folder holds the experts of a layer as one tensor, inputs before outputs, gate and up in
    turn."""
    return {
        name: part
        for layer in range(architecture.num_layers)
        for name, part in _of_layer(architecture, folder=f"model.layers.{layer}.mlp.experts")
    }


def _of_layer(architecture: Architecture, *, folder: str) -> Iterator[tuple[str, Part]]:
    assert architecture.experts is not None
    num, hidden, ffn = (
        architecture.experts.num,
        architecture.hidden_size,
        architecture.ffn_hidden_size,
    )
    pair = Part(name=f"{folder}.gate_up_proj", shape=(num, hidden, 2 * ffn), rows=1, group=2)
    down = Part(name=f"{folder}.down_proj", shape=(num, ffn, hidden))
    for expert in range(num):
        for name, part in (
            ("gate_proj", replace(pair, start=0)),
            ("up_proj", replace(pair, start=1)),
            ("down_proj", down),
        ):
            own, weight = f"{folder}.{expert}.{name}", replace(part, index=expert)
            yield f"{own}.weight", replace(weight, transposed=True)
            bias = replace(weight, name=f"{weight.name}_bias", shape=(num, weight.shape[-1]))
            yield f"{own}.bias", bias
