# SPDX-License-Identifier: Apache-2.0
"""What a model asks of the ranks' devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.families.architecture import Latent, Norms, Scales
from megacpt.plan.rules import model
from tests.plan.test_check import ARCHITECTURE, broken, config_of


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"scales": Scales(attention_cap=50.0)},
            "a bound of attention scores (attn_logit_softcapping=50.0)",
        ),
        ({"norms": Norms(centred=True)}, "LayerNorms without a bias"),
        ({"parallel_mlp": True}, "attention and MLP beside each other"),
        (
            {"latent": Latent(query_rank=None, kv_rank=8, plain_dim=4, value_dim=4)},
            "latent attention (kv_lora_rank=8)",
        ),
    ],
)
def test_what_gpus_do_not_compute_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    architecture = replace(ARCHITECTURE, **changes)
    for device, expected in (
        ("cpu", []),
        (
            "gpu",
            [
                f"cluster.device=gpu has no layers for a llama model, which has {what}; use "
                "cluster.device=cpu, or a model without"
            ],
        ),
    ):
        config = config_of({"cluster.device": device})
        assert broken(model.RULES, config=config, architecture=architecture) == expected


def test_what_gpus_compute_is_not_refused() -> None:
    norms = Norms(plus_one=True, scaled_wide=True, after=True)
    scales = Scales(logits_cap=30.0, embedding=7.0, embedding_rounded=True)
    for changes in (
        {"norms": norms, "scales": scales},
        {"norms": Norms(centred=True, bias=True), "gated": False, "activation": "gelu"},
    ):
        architecture = replace(ARCHITECTURE, **changes)
        config = config_of({"cluster.device": "gpu"})
        assert broken(model.RULES, config=config, architecture=architecture) == []


def test_samples_longer_than_a_chunk_are_refused_on_gpus() -> None:
    architecture = replace(ARCHITECTURE, attention_chunk=64)
    for device, length, expected in (
        ("cpu", 128, []),
        ("gpu", 64, []),
        (
            "gpu",
            128,
            [
                "data.sequence_length=128 is above attention_chunk_size=64 of the model, and the "
                "layers of GPUs do not cut samples into chunks; use 64 or less, or "
                "cluster.device=cpu"
            ],
        ),
    ):
        config = config_of({"cluster.device": device, "data.sequence_length": length})
        assert broken(model.RULES, config=config, architecture=architecture) == expected
