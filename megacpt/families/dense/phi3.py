# SPDX-License-Identifier: Apache-2.0
"""Phi-3 and Phi-4: Llama whose folders hold query, key and value in one tensor, gate and up in
another; part of a head may turn, and long texts turn slower (longrope)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megacpt.families.architecture import Architecture
from megacpt.families.dense import llama
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import Part, gate_and_up, side_by_side

MODEL_TYPE = "phi3"
PARAMS = llama.PARAMS

_DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
"""transformers' Phi3Config, where it differs from LlamaConfig."""
_BIASES = {"attention_bias": False, "mlp_bias": False}


def read(config: HfConfig) -> Architecture:
    for key in ("resid_pdrop", "embd_pdrop"):
        config.require(key, wanted=0.0, default=0.0)
    as_llama = HfConfig(path=config.path, values={**_DEFAULTS, **config.values, **_BIASES})
    rope = as_llama.rope(may_be_partial=True)
    window = config.window("sliding_window", default=None)
    return replace(llama.read(as_llama, rope=rope), family=MODEL_TYPE, sliding_window=window)


def parts(architecture: Architecture) -> dict[str, Part]:
    return {
        name: part
        for layer in range(architecture.num_layers)
        for name, part in _of_layer(architecture, layer=layer)
    }


def _of_layer(a: Architecture, *, layer: int) -> Iterator[tuple[str, Part]]:
    heads, kv_heads = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    attention, mlp = (f"model.layers.{layer}.{name}" for name in ("self_attn", "mlp"))
    yield from side_by_side(
        f"{attention}.qkv_proj.weight",
        rows={
            f"{attention}.q_proj.weight": heads,
            f"{attention}.k_proj.weight": kv_heads,
            f"{attention}.v_proj.weight": kv_heads,
        },
        width=a.hidden_size,
    )
    yield from gate_and_up(a, mlp=mlp)
