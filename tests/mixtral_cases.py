# SPDX-License-Identifier: Apache-2.0
"""Small random mixtures of experts, in both layouts that transformers has saved them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import VOCAB_SIZE

BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.02,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "head_dim": 16,
    "moe_intermediate_size": 40,
    "intermediate_size": 56,
    "norm_topk_prob": False,
}
"""No layer has ``intermediate_size``."""
CASES: dict[str, dict[str, Any]] = {
    "top2-of-4": {},
    "top3-of-6-tied": {
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "tie_word_embeddings": True,
        "head_dim": 16,
        "rope_theta": 5e5,
    },
    "qwen3-top2-of-4": QWEN3 | {"norm_topk_prob": True},
    "qwen3-top3-of-6-shares": QWEN3 | {"num_experts": 6, "num_experts_per_tok": 3},
}


def _sizes(model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    sizes = BASE | changes
    if model_type == "qwen3_moe":
        del sizes["num_local_experts"]
    return sizes


def write_mixtral(
    folder: Path, *, model_type: str = "mixtral", stacked: bool = False, **changes: Any
) -> Any:
    """Save a random model as transformers does, norms random too; returns it.

    ``stacked``: with the experts of a layer in one tensor, as transformers 5 holds them in memory.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **_sizes(model_type, changes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, param in model.named_parameters():
        if param.dim() == 1:
            param.data.normal_(1.0, 0.1)
        elif ".gate.weight" in name:
            # Routers that are sure of their choice, as trained ones are.
            param.data.normal_(0.0, 1.0)
    model = model.eval()
    model.save_pretrained(folder, save_original_format=not stacked)
    return model
