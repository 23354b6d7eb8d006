# SPDX-License-Identifier: Apache-2.0
"""Small models that adapters are trained on: cases of families that all layouts can cut."""

from __future__ import annotations

from tests.family_cases import Case, cases

NAMES = {
    "llama": "llama-llama3-mlp-bias",
    "llama-tied": "llama-tied-gqa",
    "qwen3": "llama_like-qwen3",
    "gemma3": "norms-gemma3",
    "gemma3-tied": "norms-gemma3-tied-biases",
    "qwen3-moe": "routed-qwen3-moe-first-dense",
    "qwen3-moe-tied": "routed-qwen3-moe-every-other",
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = (*ATTENTION, *MLP)
"""All linear layers of these models but heads and routers."""


def models() -> dict[str, Case]:
    found = cases()
    return {name: found[case] for name, case in NAMES.items()}
