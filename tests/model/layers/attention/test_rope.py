# SPDX-License-Identifier: Apache-2.0
"""Frequencies and attention factors of every kind of rope are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.families.hf_config import HfConfig

pytestmark = pytest.mark.mcore

HEAD_DIM = 32
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * n for n in range(HEAD_DIM // 2)],
    "long_factor": [1.0 + 2.0 * n for n in range(HEAD_DIM // 2)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
ROPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.3},
    LLAMA3,
    YARN,
    YARN | {"factor": 0.5},
    YARN | {"truncate": False, "beta_fast": 20, "beta_slow": 2.5, "rope_theta": 150000.0},
    YARN | {"beta_fast": None, "attention_factor": None, "mscale": 0.7},
    YARN | {"mscale": 1.2, "mscale_all_dim": 0.4, "partial_rotary_factor": 0.5},
    YARN | {"attention_factor": 0.8, "original_max_position_embeddings": 8},
    {"rope_type": "yarn", "factor": 2.0},
    LONG,
    LONG | {"original_max_position_embeddings": 100},
    LONG | {"original_max_position_embeddings": 100, "factor": 32.0},
    LONG | {"attention_factor": 1.3},
]


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_frequencies_are_those_of_transformers(rope: dict[str, Any], one_rank: None) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from megacpt.model.layers.attention.rope import inverse_frequencies

    sizes = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512}
    config = LlamaConfig(**sizes, rope_parameters={"rope_theta": 5000.0, **rope})
    ours = HfConfig(path=Path("config.json"), values={**sizes, "rope_scaling": config.rope_scaling})
    found = ours.rope(may_be_partial=True).rope
    for is_long in (False, True) if rope["rope_type"] == "longrope" else (False,):
        expected, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](
            config, None, seq_len=512 + 1 if is_long else None
        )
        frequencies = inverse_frequencies(found, head_dim=HEAD_DIM, is_long=is_long)
        torch.testing.assert_close(frequencies, expected, rtol=2e-6, atol=0.0)
        assert found.attention_factor == pytest.approx(factor)
