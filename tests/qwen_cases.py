# SPDX-License-Identifier: Apache-2.0
"""Small random models of families that are Llama but for a few things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import BASE

QWEN = BASE | {"num_key_value_heads": 2, "rope_theta": 5e5}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.3,
}
CASES: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "granite": {"model_type": "granite"} | GRANITE,
    "granite-tied": {"model_type": "granite", "tie_word_embeddings": True} | GRANITE,
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    "smollm3-tied": {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1, 0, 1],
        # Its own lies beyond the small vocabulary.
        "pad_token_id": None,
    },
    "qwen3-tied": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
}


def write_qwen(folder: Path, *, model_type: str, **changes: Any) -> Any:
    """Save a random model as transformers does, norms and biases far from their first values, so
    that a model without them differs; returns it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **(QWEN | changes)), dtype=torch.float32
    )
    for name, param in model.named_parameters():
        if param.dim() == 1:
            param.data.normal_(1.0 if "norm" in name else 0.0, 0.5)
    model = model.eval()
    model.save_pretrained(folder)
    return model
