# SPDX-License-Identifier: Apache-2.0
"""Rules of optimizer and schedule: every sentence, and what is let through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from megacpt.config.sections import RunConfig
from megacpt.plan.check import violations
from megacpt.plan.rules.optim import advice
from tests.support import LLAMA, write_model_folder

SOURCE = {"data": {"sources": {"law": {"prefix": "law"}}}, "model": {"path": "m"}}


def config_of(changes: dict[str, Any]) -> RunConfig:
    tree = OmegaConf.structured(RunConfig)
    for key, value in changes.items():
        OmegaConf.update(tree, key, value)
    found = OmegaConf.to_object(OmegaConf.merge(tree, SOURCE))
    assert isinstance(found, RunConfig)
    return found


def sentences(changes: dict[str, Any], **facts: Any) -> list[str]:
    return [str(violation) for violation in violations(config_of(changes), **facts)]


ZERO3 = {"parallel.sharded_weights": True, "parallel.dp": 2}
MUON = {"optim.optimizer": "muon"}
NOT_WITH_ZERO3 = "or parallel.sharded_weights=false"
NOT_WITH_MUON = "cuts matrices that optim.optimizer=muon needs whole"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedule.shape": "constant", "schedule.lr_final_fraction": 0.1},
            "schedule.lr_final_fraction=0.1 is not used by schedule.shape=constant; "
            "use null, or a shape that decays: cosine, linear or wsd",
        ),
        (
            {"schedule.decay_steps": 10},
            "schedule.decay_steps=10 is not used by schedule.shape=cosine; "
            "use 0 or schedule.shape=wsd",
        ),
        (
            {"schedule.shape": "wsd"},
            "schedule.decay_steps=0 is not among the 95 steps after warmup; "
            "use 1 to 95; 20 is usual",
        ),
        (
            {"schedule.shape": "wsd", "schedule.decay_steps": 96},
            "schedule.decay_steps=96 is not among the 95 steps after warmup; "
            "use 1 to 95; 20 is usual",
        ),
        (
            {"schedule.lr_start_fraction": 1.5},
            "schedule.lr_start_fraction=1.5 is outside [0, 1]; 0 is usual",
        ),
        (
            {"optim.base_lr_peak": 0.0},
            "optim.base_lr_peak=0.0 is not above 0; use a positive number",
        ),
        (
            {"optim.head_lr_multiplier": -1.0},
            "optim.head_lr_multiplier=-1.0 is below 0; use 0 or more",
        ),
        (
            {"optim.offload": True},
            "optim.offload=true needs parallel.distributed_optimizer; "
            "set parallel.distributed_optimizer=true (parallel.dp=1 is enough)",
        ),
        (
            {**ZERO3, "parallel.distributed_optimizer": True},
            "parallel.distributed_optimizer=true does not go with parallel.sharded_weights, which "
            f"cuts the optimizer state as well; use parallel.distributed_optimizer=false "
            f"{NOT_WITH_ZERO3}",
        ),
        (
            {**ZERO3, "parallel.overlap_grad_reduce": True},
            "parallel.overlap_grad_reduce=true does not go with parallel.sharded_weights, which "
            f"always overlaps its own communication; use parallel.overlap_grad_reduce=false "
            f"{NOT_WITH_ZERO3}",
        ),
        (
            {**ZERO3, "optim.offload": True},
            "optim.offload=true does not go with parallel.sharded_weights, which "
            f"keeps its state with the weights; use optim.offload=false {NOT_WITH_ZERO3}",
        ),
        (
            {**ZERO3, "parallel.pp": 2},
            "parallel.pp=2 does not go with parallel.sharded_weights, which gathers each layer "
            f"once a microbatch and direction; use parallel.pp=1 {NOT_WITH_ZERO3}",
        ),
        (
            {**MUON, "parallel.distributed_optimizer": True},
            f"parallel.distributed_optimizer=true {NOT_WITH_MUON}; "
            "use parallel.distributed_optimizer=false or optim.optimizer=adamw",
        ),
        (
            {**MUON, "optim.muon.scale": "big"},
            "optim.muon.scale=big is not one of the allowed values; use spectral or unit_rms_norm",
        ),
        (
            {**MUON, "optim.muon.newton_schulz_steps": 0},
            "optim.muon.newton_schulz_steps=0 is below 1; use 1 or more",
        ),
    ],
)
def test_each_rule_names_what_is_wrong_and_what_to_do(
    changes: dict[str, Any], message: str
) -> None:
    assert message in "\n".join(sentences(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule.shape": "constant"},
        {"schedule.shape": "inverse_sqrt"},
        {"schedule.shape": "wsd", "schedule.decay_steps": 20, "schedule.lr_final_fraction": 0.0},
        {"optim.offload": True, "parallel.distributed_optimizer": True},
        ZERO3,
        {**ZERO3, "parallel.tp": 2, "parallel.sequence_parallel": True},
        MUON,
    ],
)
def test_what_goes_together_is_let_through(changes: dict[str, Any]) -> None:
    assert sentences(changes) == []


def test_a_tied_head_has_no_rate_of_its_own(tmp_path: Any) -> None:
    from megacpt.families import read_architecture

    assert not LLAMA["tie_word_embeddings"]
    changes = {"optim.head_lr_multiplier": 0.5}
    untied = read_architecture(write_model_folder(tmp_path / "model", max_position_embeddings=512))
    assert sentences(changes, architecture=untied) == []
    tied = replace(untied, tied_embeddings=True)
    assert sentences(changes, architecture=tied) == [
        "optim.head_lr_multiplier=0.5 has no tensor of its own: the model's head is its embedding; "
        "use 1, and optim.embedding_lr_multiplier for both"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"optim.base_lr_peak": 1e-4}, []),
        ({"optim.base_lr_peak": 9e-5}, ["is more than a fifth of optim.base_lr_peak=9e-05"]),
        ({"optim.lr_peak": 6e-5}, ["optim.lr_peak=6e-05 is outside 5e-06 to 5e-05"]),
        ({"optim.lr_peak": 4e-6}, ["optim.lr_peak=4e-06 is outside 5e-06 to 5e-05"]),
        ({"schedule.warmup_steps": 0}, ["schedule.warmup_steps=0 starts at the peak"]),
        (
            {"optim.lr_peak": 3e-4, "optim.base_lr_peak": 3e-4, "schedule.warmup_steps": 0},
            ["more than a fifth", "outside", "starts at the peak"],
        ),
    ],
)
def test_advice_is_given_where_a_setting_is_unusual(
    changes: dict[str, Any], words: list[str]
) -> None:
    found = list(advice(config_of(changes)))
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))
