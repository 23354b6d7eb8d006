# SPDX-License-Identifier: Apache-2.0
"""Families with gated delta nets."""

from __future__ import annotations

from typing import Any

import torch

from tests.family_cases import Case

NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
QWEN3_5 = NET | {"head_dim": 16, "partial_rotary_factor": 0.25, "rope_theta": 1e4}


NOISE = 1e-4
"""transformers' own logits move by 6e-5 where its embeddings do by 1e-7 of themselves."""


def without_convolution(model: Any) -> None:
    for layer in model.decoder.layers:
        if hasattr(layer.self_attention, "conv"):
            layer.self_attention.conv.data[..., :-1] = 0.0


def without_gate(model: Any) -> None:
    for layer in model.decoder.layers:
        if not hasattr(layer.self_attention, "conv"):
            layer.self_attention._apply_output_gate = lambda x, gate: x


def draw(name: str, parameter: torch.nn.Parameter) -> bool:
    """Decays of a token's half life to a chunk's."""
    if name.endswith("A_log"):
        parameter.data.uniform_(-4.0, 0.0)
        return True
    if "conv1d" in name:
        parameter.data.normal_(0.0, 0.5)
        return True
    return False


CASES = {
    "qwen3.5": Case(
        model_type="qwen3_5_text",
        changes=QWEN3_5,
        spoilt={"convolution": without_convolution},
        draw=draw,
        logits_atol=NOISE,
    ),
}
