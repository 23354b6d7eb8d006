# SPDX-License-Identifier: Apache-2.0
"""Rotary positions of every kind, and the families that have some of their own."""

from __future__ import annotations

from typing import Any

from tests.family_cases import Case
from tests.family_cases.llama_like import without_biases
from tests.family_cases.norms import with_halves_turned, without_norms_after

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
DEFAULT = {"rope_parameters": PLAIN}


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_parameters": YARN | changes}


def longrope(*, channels: int, original: int, **more: Any) -> dict[str, Any]:
    """Divisors of short texts and of long ones that are far apart."""
    return {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1000.0,
            "short_factor": [1.0 + 0.5 * n for n in range(channels // 2)],
            "long_factor": [2.0 + 3.0 * n for n in range(channels // 2)],
            **more,
        },
        "original_max_position_embeddings": original,
    }


GLM = {"pad_token_id": None, "head_dim": 16}
HALF = {"partial_rotary_factor": 0.5}
PHI = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "head_dim": ...}
QUARTERS = {"partial_rotary_factor": 0.75}
ALWAYS_SHORT = {"its long factors": {"original_max_position_embeddings": 256}}
CASES = {
    "linear": Case(
        model_type="llama",
        changes={"rope_parameters": PLAIN | {"rope_type": "linear", "factor": 4.0}},
        without={"scaling": DEFAULT},
    ),
    "proportional": Case(
        model_type="llama",
        changes={
            "head_dim": 16,
            "rope_parameters": PLAIN
            | {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5},
        },
        without={"scaling": DEFAULT},
    ),
    "yarn": Case(
        model_type="qwen2",
        changes=rope() | {"head_dim": ..., "num_attention_heads": 2, "num_key_value_heads": 2},
        without={
            "scaling": DEFAULT,
            "its attention factor": rope(attention_factor=1.0),
            "its original length": rope(original_max_position_embeddings=64),
            "its betas": rope(beta_fast=4.0, beta_slow=2.0),
        },
    ),
    "yarn-options": Case(
        model_type="qwen3",
        changes=rope(beta_fast=9.0, beta_slow=1.5, truncate=False, mscale=1.4, mscale_all_dim=0.3)
        | {"head_dim": 24, "no_rope_layers": ...},
        without={
            "truncation": rope(beta_fast=9.0, beta_slow=1.5, mscale=1.4, mscale_all_dim=0.3),
            "mscale": rope(beta_fast=9.0, beta_slow=1.5, truncate=False),
        },
    ),
    "yarn-without-positions": Case(
        model_type="smollm3",
        changes=rope(attention_factor=1.7) | {"no_rope_layers": [1, 0, 1, 1], "pad_token_id": None},
        without={"scaling": DEFAULT},
    ),
    "longrope-of-documents": Case(
        # Documents of 41, 55, 1, 59 and 36 tokens: some are short and some are long.
        model_type="phi3",
        changes=PHI | longrope(channels=8, original=50) | {"sliding_window": 37},
        without=ALWAYS_SHORT | {"window": {"sliding_window": None}},
    ),
    "longrope-of-a-part": Case(
        model_type="phi3",
        changes=PHI | longrope(channels=6, original=32, attention_factor=1.6, **QUARTERS),
        without={
            **ALWAYS_SHORT,
            "its attention factor": longrope(
                channels=6, original=32, attention_factor=1.0, **QUARTERS
            ),
        },
    ),
    "phi3-of-a-part-tied": Case(
        model_type="phi3",
        changes=PHI
        | {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}, "tie_word_embeddings": True},
        without={"its part": DEFAULT | {"partial_rotary_factor": 1.0}},
    ),
    "glm-of-documents": Case(
        model_type="glm",
        changes=GLM | rope(partial_rotary_factor=0.5) | {"attention_bias": False},
        without={
            "scaling": {"rope_parameters": PLAIN | HALF},
            "its attention factor": rope(partial_rotary_factor=0.5, attention_factor=1.0),
        },
        spoilt={"pairs": with_halves_turned},
    ),
    "glm4": Case(
        model_type="glm4",
        changes=GLM | {"rope_parameters": PLAIN | HALF},
        without={"its part": {"rope_parameters": PLAIN | {"partial_rotary_factor": 1.0}}},
        spoilt={"pairs": with_halves_turned, "norms after": without_norms_after},
    ),
    "glm4-tied": Case(
        model_type="glm4",
        changes=GLM
        | {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.75}, "tie_word_embeddings": True},
        spoilt={"biases": without_biases},
    ),
    "ministral3": Case(
        model_type="ministral3",
        changes=rope(llama_4_scaling_beta=0.7, original_max_position_embeddings=16)
        | {"head_dim": 16, "sliding_window": None},
        without={
            "growth": rope(llama_4_scaling_beta=0.0, original_max_position_embeddings=16),
            "scaling": {
                "rope_parameters": YARN
                | {"factor": 1.0, "original_max_position_embeddings": 16}
                | {"llama_4_scaling_beta": 0.7}
            },
        },
    ),
    "ministral3-windows": Case(
        model_type="ministral3",
        changes=rope(
            llama_4_scaling_beta=0.4,
            original_max_position_embeddings=9,
            mscale=1.0,
            mscale_all_dim=1.0,
        )
        | {"head_dim": 24, "sliding_window": 29, "tie_word_embeddings": True},
        without={"window": {"sliding_window": None}},
    ),
}
