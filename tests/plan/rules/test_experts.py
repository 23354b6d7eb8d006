# SPDX-License-Identifier: Apache-2.0
"""What experts ask of the layout, and how they are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import Dtype, ParallelConfig
from megacpt.families import param_rows
from megacpt.families.architecture import Experts
from megacpt.families.counts import (
    num_active_parameters,
    num_parameters,
    training_flops_per_token,
)
from megacpt.plan.memory import rank_memory
from megacpt.plan.rules import experts, model
from tests.plan.test_check import ARCHITECTURE, broken, config_of, messages

MIXTURE = replace(
    ARCHITECTURE,
    family="mixtral",
    experts=Experts(num=8, per_token=2, balance_coefficient=0.02),
)
TP3 = {"parallel.tp": 3, "parallel.sequence_parallel": True}


def found(changes: dict[str, Any], architecture: Any = MIXTURE) -> list[str]:
    rules = (*model.RULES, *experts.RULES)
    return broken(rules, config=config_of(changes), architecture=architecture)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel.dp": 4, "parallel.ep": 4},
        {"parallel.dp": 4, "parallel.ep": 2},
        TP3 | {"parallel.dp": 4, "parallel.ep": 4},
        TP3 | {"parallel.dp": 8, "parallel.ep": 8, "parallel.etp": 1},
        {"parallel.cp": 2, "parallel.ep": 2},
        {"model.router_aux_loss_coef": 0.0},
        # It would exceed pp's ranks only: experts are dealt within a stage.
        {"parallel.pp": 2, "parallel.dp": 2, "parallel.ep": 2},
    ],
)
def test_what_is_sound(changes: dict[str, Any]) -> None:
    assert found(changes) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"parallel.dp": 6, "parallel.ep": 3},
            "parallel.ep=3 does not divide num_local_experts=8; use 1 or 2",
        ),
        (
            {"parallel.dp": 2, "parallel.ep": 4},
            "parallel.ep=4 times etp=1 does not divide the 2 ranks of a stage (tp * cp * dp); "
            "use 1 or 2",
        ),
        (
            {"parallel.dp": 2, "parallel.etp": 4},
            "parallel.etp=4 does not divide the 2 ranks of a pipeline stage (tp * cp * dp); "
            "use 1 or 2",
        ),
        (
            {"parallel.dp": 5, "parallel.etp": 5},
            "parallel.etp=5 does not divide intermediate_size=1536; use 1",
        ),
        (
            {"parallel.tp": 3},
            "parallel.sequence_parallel=false leaves every token on all 3 tensor-parallel ranks, "
            "each of which would send it to its experts; set parallel.sequence_parallel=true or "
            "parallel.tp=1",
        ),
        (
            {"parallel.dp": 2, "parallel.sharded_weights": True},
            "parallel.sharded_weights=true is not there for models with experts; set "
            "parallel.distributed_optimizer=true in its place, and deal the experts with "
            "parallel.ep",
        ),
        (
            {"model.router_aux_loss_coef": -0.1},
            "model.router_aux_loss_coef=-0.1 is not a number from 0 up; 0.001 to 0.02 is usual, "
            "null takes the base model's",
        ),
    ],
)
def test_each_rule(changes: dict[str, Any], expected: str) -> None:
    assert found(changes) == [expected]


def test_a_window_is_no_limit_of_the_samples_length() -> None:
    windowed = replace(MIXTURE, sliding_window=256)
    assert found({"data.sequence_length": 512}, windowed) == []


def test_a_dense_model_has_no_experts_to_deal() -> None:
    changes = {"parallel.dp": 2, "parallel.ep": 2, "parallel.etp": 1}
    changes["model.router_aux_loss_coef"] = 0.01
    assert found(changes, ARCHITECTURE) == [
        "parallel.ep=2 needs a model with experts, but this llama has none; use parallel.ep=1",
        "parallel.etp=1 needs a model with experts, but this llama has none; use parallel.etp=null",
        "model.router_aux_loss_coef=0.01 needs a model with experts, but this llama has none; "
        "use model.router_aux_loss_coef=null",
    ]


def test_the_rules_are_among_all_rules() -> None:
    (only,) = messages({"parallel.dp": 8, "parallel.ep": 2}, architecture=ARCHITECTURE)
    assert only.startswith("parallel.ep=2 needs a model with experts")


def test_nothing_is_said_of_a_model_not_read_yet() -> None:
    assert found({"parallel.ep": 3}, None) == []


def test_parameters_all_and_of_one_token() -> None:
    """Mixtral 8x7B, whose authors state 46.7 and 12.9 billion (https://arxiv.org/abs/2401.04088)."""
    mixtral = replace(
        MIXTURE,
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=32000,
        tied_embeddings=False,
    )
    assert num_parameters(mixtral) == 46_702_792_704
    assert round(num_active_parameters(mixtral) / 1e9, 1) == 12.9
    # Two operations a weight forward, four backward; the embedding table is looked up.
    active = num_active_parameters(mixtral) - 32000 * 4096 - (2 * 32 + 1) * 4096
    assert training_flops_per_token(mixtral, sequence_length=0) == 6.0 * active


def test_a_rank_holds_its_share_of_the_experts() -> None:
    def weights(**layout: Any) -> int:
        parallel = ParallelConfig(**layout)
        data = config_of({}).data
        return rank_memory(MIXTURE, data=data, parallel=parallel, dtype=Dtype.fp32).weights

    of_experts = sum(r.num_values(MIXTURE) for r in param_rows(MIXTURE) if r.per_expert)
    whole, experts = 4 * num_parameters(MIXTURE), 4 * of_experts
    assert weights() == whole
    assert weights(dp=4, ep=4) == whole - experts * 3 // 4
    # Cut over tensor parallelism or dealt whole, it is the same share.
    sound = {"tp": 3, "sequence_parallel": True}
    assert weights(**sound, etp=3) < weights(**sound, etp=1)


def test_optimizer_state_is_cut_over_the_ranks_with_the_same_experts() -> None:
    def state(**layout: Any) -> int:
        parallel = ParallelConfig(distributed_optimizer=True, **layout)
        data = config_of({}).data
        return rank_memory(MIXTURE, data=data, parallel=parallel, dtype=Dtype.fp32).optimizer

    # Four ranks share all of it, whether each holds all experts or a fourth of them.
    assert state(dp=4) == state(dp=4, ep=4)


def test_operations_of_windows() -> None:
    """Counted key by key; a token's own counts half, as where there is no window."""
    model = replace(MIXTURE, sliding_window=4, full_attention_layers=(1,))
    query_values = model.num_heads * model.head_dim
    keys = [min(t + 1, 4) for t in range(10)]
    found, without = (
        training_flops_per_token(model, sequence_length=10),
        training_flops_per_token(replace(model, sliding_window=None), sequence_length=10),
    )
    cut = (model.num_layers - 1) * query_values * (10 - (2 * sum(keys) - 4) / 10)
    assert without - found == pytest.approx(6.0 * cut)


def test_experts_with_biases_are_not_cut() -> None:
    biased = replace(MIXTURE, family="gpt_oss", mlp_bias=True)
    assert found(TP3, biased) == [
        "parallel.etp=3 cuts experts, but those of gpt_oss have biases, which are added whole; set "
        "parallel.etp=1"
    ]
    assert found(TP3 | {"parallel.etp": 1}, biased) == []
