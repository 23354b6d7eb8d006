# SPDX-License-Identifier: Apache-2.0
"""What a model asks of the ranks' devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.families.architecture import (
    BoundedGlu,
    DeltaNet,
    Experts,
    Latent,
    Norms,
    Scales,
)
from megacpt.plan.rules import model
from tests.plan.test_check import ARCHITECTURE, broken, config_of

NET = DeltaNet(layers=(0, 1), key_heads=2, value_heads=4, key_dim=16, value_dim=16, kernel=4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"bounded_glu": BoundedGlu(slope=2.0, limit=7.0)},
            "an activation of another slope than 1.702 (swiglu_alpha=2.0)",
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
        {"norms": Norms(centred=True), "parallel_mlp": True},
        {"scales": Scales(attention_cap=50.0)},
        {"latent": Latent(query_rank=None, kv_rank=8, plain_dim=4, value_dim=4)},
        {"delta_net": NET},
        {"bounded_glu": BoundedGlu(slope=1.702, limit=5.0), "sinks": True},
    ):
        architecture = replace(ARCHITECTURE, **changes)
        config = config_of({"cluster.device": "gpu"})
        assert broken(model.RULES, config=config, architecture=architecture) == []


def test_samples_of_a_model_with_sinks_are_cut_on_cpus_alone() -> None:
    architecture = replace(ARCHITECTURE, sinks=True)
    for changes, expected in (
        ({"cluster.device": "cpu", "parallel.cp": 2}, []),
        ({"cluster.device": "gpu"}, []),
        (
            {"cluster.device": "gpu", "parallel.cp": 2},
            [
                "parallel.cp=2 cuts samples, but Transformer Engine has no sinks, as this llama "
                "has, for the way in which they are cut; use parallel.cp=1"
            ],
        ),
    ):
        found = broken(model.RULES, config=config_of(changes), architecture=architecture)
        assert found == expected


def test_a_large_weight_of_the_balancing_loss_is_asked_for() -> None:
    mixture = Experts(num=8, per_token=2, balance_coefficient=0.9)
    architecture = replace(ARCHITECTURE, experts=mixture)
    for chosen, expected in (
        (
            None,
            [
                "model.router_aux_loss_coef=null takes the 0.9 of config.json for weight of the "
                "balancing loss, which would outweigh that of the text (most models state 0.001 to "
                "0.02); set model.router_aux_loss_coef=0.001, 0 for none, or 0.9 to have it so"
            ],
        ),
        (0.9, []),
        (0.0, []),
    ):
        config = config_of({"model.router_aux_loss_coef": chosen})
        assert broken(model.RULES, config=config, architecture=architecture) == expected


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
