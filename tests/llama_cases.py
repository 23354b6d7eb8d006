# SPDX-License-Identifier: Apache-2.0
"""Five small random Llama models that vary every option megacpt supports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCAB_SIZE = 131
"""Prime, so no tensor-parallel size divides it."""
BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied-gqa": {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 5e5},
    "head-dim-attention-bias": {"num_key_value_heads": 3, "head_dim": 16, "attention_bias": True},
    "llama3-mlp-bias": {
        "hidden_size": 96,
        "num_attention_heads": 12,
        "mlp_bias": True,
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3_ROPE,
    },
    "tied-all-biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
}
TOKENS_BS = torch.randint(0, VOCAB_SIZE, (2, 96), generator=torch.Generator().manual_seed(7))
"""Longer than ``original_max_position_embeddings``."""


def write_llama(folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Save a random model as transformers does, norms and biases random too; returns it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**(BASE | changes)))
    for name, param in model.named_parameters():
        if param.dim() == 1:
            param.data.normal_(1.0 if "norm" in name else 0.0, 0.1)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    return model


def divides(folder: Path, tp: int) -> bool:
    """Whether the model can be cut over ``tp`` ranks."""
    return int(json.loads((folder / "config.json").read_text())["num_key_value_heads"]) % tp == 0
