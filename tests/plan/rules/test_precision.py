# SPDX-License-Identifier: Apache-2.0
"""Each rule of precision names the setting, the rule, the value and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import (
    ClusterConfig,
    DataConfig,
    DeviceKind,
    Dtype,
    Fp8Format,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    RunConfig,
    SourceConfig,
)
from megacpt.families.architecture import Architecture, DeltaNet, Experts, Latent
from megacpt.families.counts import num_parameters
from megacpt.plan.memory import rank_memory
from megacpt.plan.precision import format_of, keeps_bf16, precision_name, weight_copy_bytes
from megacpt.plan.rules.precision import RULES
from tests.plan.test_check import ARCHITECTURE, broken

LLAMA = replace(
    ARCHITECTURE,
    num_layers=8,
    hidden_size=256,
    ffn_hidden_size=704,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    vocab_size=1000,
    tied_embeddings=False,
)
FP8 = {"recipe": Recipe.tensorwise}
NET = DeltaNet(layers=(0,), key_heads=4, value_heads=32, key_dim=32, value_dim=16, kernel=4)


def config(
    *, parallel: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **precision: Any
) -> RunConfig:
    return RunConfig(
        precision=PrecisionConfig(**precision),
        parallel=ParallelConfig(**(parallel or {})),
        data=DataConfig(**({"sources": {"a": SourceConfig(prefix="a")}} | (data or {}))),
    )


def messages(run: RunConfig, architecture: Architecture = LLAMA) -> list[str]:
    return broken(RULES, config=run, architecture=architecture)


@pytest.mark.parametrize("recipe", Recipe)
def test_every_recipe_is_possible(recipe: Recipe) -> None:
    assert messages(config(recipe=recipe)) == []
    assert messages(config(recipe=recipe, parallel={"tp": 2, "sequence_parallel": True})) == []


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        (FP8 | {"dtype": Dtype.fp32}, "precision.recipe", "needs bf16"),
        ({"fp8_format": Fp8Format.e4m3}, "precision.fp8_format", "is of the fp8 recipes"),
        (
            {"recipe": Recipe.nvfp4, "fp8_format": Fp8Format.hybrid},
            "precision.fp8_format",
            "precision.recipe=nvfp4",
        ),
        (FP8 | {"amax_history_length": 0}, "precision.amax_history_length", "is below 1"),
        (FP8 | {"bf16_first_layers": -1}, "precision.bf16_first_layers", "is below 0"),
        ({"bf16_first_layers": 1}, "precision.bf16_first_layers", "has no meaning"),
        (
            {"recipe": Recipe.delayed, "bf16_last_layers": 1},
            "precision.bf16_last_layers",
            "is not possible with precision.recipe=delayed",
        ),
        (
            FP8 | {"bf16_first_layers": 5, "parallel": {"pp": 2}},
            "precision.bf16_first_layers",
            "more than the layers of a pipeline stage (4)",
        ),
        (
            FP8 | {"bf16_first_layers": 4, "bf16_last_layers": 4},
            "precision.bf16_last_layers",
            "leaves none of the 8 layers",
        ),
        (
            FP8 | {"fp8_param_gather": True},
            "precision.fp8_param_gather",
            "needs parallel.distributed_optimizer",
        ),
        (
            {
                "recipe": Recipe.mxfp8,
                "fp8_param_gather": True,
                "parallel": {"distributed_optimizer": True},
            },
            "precision.fp8_param_gather",
            "delayed, tensorwise or blockwise",
        ),
        (
            FP8
            | {
                "fp8_param_gather": True,
                "parallel": {"distributed_optimizer": True, "sharded_weights": True},
            },
            "precision.fp8_param_gather",
            "parallel.sharded_weights",
        ),
        (
            {"recipe": Recipe.mxfp8, "parallel": {"tp": 4}},
            "precision.recipe",
            "intermediate_size of 4 ranks is 176",
        ),
        (
            FP8 | {"data": {"sequence_length": 24}},
            "data.sequence_length",
            "gives a rank 24 tokens a microbatch",
        ),
        (
            {"recipe": Recipe.mxfp8, "parallel": {"cp": 2}, "data": {"sequence_length": 32}},
            "data.sequence_length",
            "32 / 2 tokens",
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], path: str, words: str) -> None:
    found = messages(config(**settings))
    assert [text.partition("=")[0] for text in found] == [path], found
    assert words in found[0]
    assert found[0].partition("; ")[2]


def test_the_emulation_keeps_no_weights_in_fp8() -> None:
    run = config(**FP8, fp8_param_gather=True, parallel={"distributed_optimizer": True})
    assert messages(run) == []
    assert "needs a GPU" in messages(replace(run, cluster=ClusterConfig(device=DeviceKind.cpu)))[0]


def test_experts_are_cut_by_their_own_ranks() -> None:
    mixture = replace(LLAMA, experts=Experts(num=4, per_token=2, balance_coefficient=0.01))
    parallel = {"tp": 4, "etp": 1}
    assert messages(config(recipe=Recipe.mxfp8, parallel=parallel), mixture) == []
    (message,) = messages(config(recipe=Recipe.mxfp8, parallel={"tp": 4}), mixture)
    assert "intermediate_size of 4 ranks is 176" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"latent": Latent(query_rank=24, kv_rank=32, plain_dim=32, value_dim=32)},
            "q_lora_rank is 24",
        ),
        (
            {"latent": Latent(query_rank=None, kv_rank=40, plain_dim=32, value_dim=32)},
            "kv_lora_rank is 40",
        ),
        (
            {"delta_net": replace(NET, value_heads=12)},
            "what a gated delta net reads of tp=4 is 166",
        ),
        ({"delta_net": replace(NET, value_dim=9)}, "a gated delta net's values of tp=4 is 72"),
    ],
)
def test_products_of_other_attention_have_sizes_too(changes: dict[str, Any], words: str) -> None:
    """But the small ones of latent attention, which no recipe quantises."""
    model, parallel = replace(LLAMA, **changes), {"tp": 4}
    found = messages(config(**FP8, parallel=parallel), model)
    assert any(words in text for text in found), found
    sound = {"latent": Latent(query_rank=48, kv_rank=32, plain_dim=32, value_dim=32)}
    for fits in (sound, {"delta_net": NET}):
        assert messages(config(**FP8, parallel=parallel), replace(LLAMA, **fits)) == []


def test_formats_follow_the_recipe_unless_set() -> None:
    assert format_of(PrecisionConfig(recipe=Recipe.delayed)) is Fp8Format.hybrid
    assert format_of(PrecisionConfig(recipe=Recipe.blockwise)) is Fp8Format.e4m3
    asked = PrecisionConfig(recipe=Recipe.mxfp8, fp8_format=Fp8Format.hybrid)
    assert format_of(asked) is Fp8Format.hybrid


def test_names_say_what_is_emulated_and_what_is_left_out() -> None:
    ends = PrecisionConfig(recipe=Recipe.nvfp4, bf16_first_layers=1, bf16_last_layers=2)
    assert precision_name(PrecisionConfig(), emulated=True) == "bf16"
    assert precision_name(PrecisionConfig(recipe=Recipe.delayed), emulated=False) == "fp8 delayed"
    assert precision_name(ends, emulated=True) == (
        "nvfp4, first 1 and last 2 layers in bf16 (emulation, not FP8 hardware)"
    )
    kept = [keeps_bf16(ends, layer=layer, num_layers=5) for layer in range(5)]
    assert kept == [True, False, False, True, True]


def test_quantised_weights_are_planned_for() -> None:
    """Two bytes for each weight of the layers, none where they take the place of bf16."""
    run = config(parallel={"tp": 2})

    def weights(**precision: Any) -> int:
        return rank_memory(
            LLAMA,
            data=run.data,
            parallel=run.parallel,
            dtype=Dtype.bf16,
            weight_copy_bytes=weight_copy_bytes(PrecisionConfig(**precision)),
        ).weights

    of_layers = num_parameters(LLAMA) - 2 * 1000 * 256 - 256
    assert weights(**FP8) - weights() == 2 * of_layers // 2
    assert weights(**FP8, fp8_param_gather=True) == weights()
