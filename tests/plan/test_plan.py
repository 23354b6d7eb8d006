# SPDX-License-Identifier: Apache-2.0
"""The plan's arithmetic against hand-counted cases, and its width on a terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.compose import compose
from megacpt.config.sections import (
    DataConfig,
    Dtype,
    ParallelConfig,
    ReplayConfig,
    RunConfig,
    SampleOrder,
    ScheduleConfig,
    SourceConfig,
    StageConfig,
    StageSourceConfig,
)
from megacpt.families.counts import num_parameters, training_flops_per_token
from megacpt.plan.memory import checkpoint_bytes, rank_memory, rank_parameters
from megacpt.plan.plan import checkpoints_kept, make_plan, shares
from tests.plan.test_check import ARCHITECTURE as SMOLLM2

ARCHITECTURE = replace(
    SMOLLM2,
    num_layers=4,
    hidden_size=8,
    ffn_hidden_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=10,
    max_positions=64,
    tied_embeddings=False,
)


def config_of(*, steps: int = 10, share: float = 0.25) -> RunConfig:
    data = DataConfig(
        sources={
            "law": SourceConfig(prefix="/law", weight=3.0),
            "tax": SourceConfig(prefix="/tax", weight=1.0),
            "web": SourceConfig(prefix="/web", weight=99.0),
        },
        replay=ReplayConfig(source="web", share=share),
        sequence_length=16,
        global_batch_size=8,
    )
    return RunConfig(data=data, schedule=ScheduleConfig(steps=steps, warmup_steps=2))


TOKENS = {"law": 960, "tax": 10_000, "web": 20_000_000_000}


def test_totals_and_sources() -> None:
    plan = make_plan(config_of(), architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert (plan.tokens_per_step, plan.tokens, plan.microbatches) == (128, 1280, 8)
    law, tax, web = plan.sources
    assert (law.samples, tax.samples, web.samples) == (45, 15, 20)
    assert (law.share_asked, tax.share_asked, web.share_asked) == (0.5625, 0.1875, 0.25)
    assert law.epochs == pytest.approx(45 * 16 / 960)
    assert web.is_replay
    assert plan.learning_rates[10] == pytest.approx(2e-6)


@given(share=st.floats(0.13, 0.87), steps=st.integers(1, 1000))
def test_samples_sum_to_the_run_and_stay_within_one_of_the_share(share: float, steps: int) -> None:
    config = config_of(steps=steps, share=share)
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert sum(source.samples for source in plan.sources) == 8 * steps
    assert all(abs(s.samples - s.share_asked * 8 * steps) < 1 for s in plan.sources)


def test_shares_without_replay_are_the_normalised_weights() -> None:
    data = replace(config_of().data, replay=None)
    assert shares(data, steps=10) == {"law": 3 / 103, "tax": 1 / 103, "web": 99 / 103}


def test_stages_have_their_own_tokens_and_flops() -> None:
    config = config_of(steps=10)
    config.data.stages = {
        "long": StageConfig(from_step=4, sequence_length=32, global_batch_size=4),
        "tax_only": StageConfig(from_tokens=640, sources={"tax": StageSourceConfig()}),
        "never": StageConfig(from_step=10),
    }
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert [(s.name, s.from_step, s.steps, s.tokens) for s in plan.stages] == [
        ("", 0, 4, 512),
        ("long", 4, 1, 128),
        ("tax_only", 5, 5, 640),
        ("never", 10, 0, 0),
    ]
    assert plan.tokens == 1280
    long_flops = training_flops_per_token(ARCHITECTURE, sequence_length=32)
    short_flops = training_flops_per_token(ARCHITECTURE, sequence_length=16)
    assert plan.training_flops == pytest.approx(512 * short_flops + 768 * long_flops)
    law, tax, web = plan.sources
    assert (law.samples, tax.samples, web.samples) == (18 + 2, 6 + 1 + 15, 8 + 1 + 5)
    assert tax.tokens == 6 * 16 + 16 * 32
    assert law.epochs == pytest.approx(18 / 60 + 2 / 30)
    assert sum(source.share_asked for source in plan.sources) == pytest.approx(1)
    text = plan.render()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "tax_only" in text
    assert "(start)" in text
    assert "tax 75.00%" in text


@pytest.mark.parametrize(
    ("weight", "steps", "samples"), [(1e-6, 10, 0), (1e-3, 10, 0), (0.05, 10, 1), (1e-6, 9999, 0)]
)
def test_a_source_too_small_for_one_sample_is_advised_against(
    weight: float, steps: int, samples: int
) -> None:
    config = config_of(steps=steps)
    config.data.sources["tax"].weight = weight
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert plan.sources[1].samples == samples
    found = [sentence for sentence in plan.advice if sentence.startswith("data.sources.tax gives")]
    assert len(found) == (samples == 0)
    assert all(f"of {8 * steps:,} samples, is less than one of them" in s for s in found)


def test_a_source_whose_stage_never_comes_is_advised_against() -> None:
    config = config_of(steps=10)
    config.data.sources["tax"].weight = 0
    config.data.stages = {"late": StageConfig(from_step=10, sources={"tax": StageSourceConfig()})}
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert any("tax gives no sample: it waits for a stage that begins" in s for s in plan.advice)


@pytest.mark.parametrize("tokens", [1, 5, 15, 16, 17, 100])
def test_epochs_in_megatron_s_order_are_tokens_through_tokens(tokens: int) -> None:
    config = config_of(steps=10)
    config.data.order = SampleOrder.megatron
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS | {"law": tokens})
    assert plan.sources[0].epochs == pytest.approx(45 * 16 / tokens)


def test_rates_groups_and_advice_are_shown() -> None:
    config = config_of(steps=40)
    config.optim.lr_peak, config.optim.embedding_lr_multiplier = 3e-4, 0.5
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    lines = plan.render().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "LR at step   1: 1.50e-04  2: 3.00e-04  20: 1.76e-04  40: 3.00e-05" in lines
    assert "LR of groups embedding x 0.5" in lines
    assert (
        "Advice       optim.lr_peak=0.0003 is outside 5e-06 to 5e-05, which is usual for" in lines
    )
    assert plan.to_json()["advice"] == plan.advice


def test_parameters_of_ranks_cover_the_model() -> None:
    total = num_parameters(ARCHITECTURE)
    table = 80
    assert rank_parameters(ARCHITECTURE, parallel=ParallelConfig()) == total
    one_of_two = rank_parameters(ARCHITECTURE, parallel=ParallelConfig(tp=2))
    assert abs(2 * one_of_two - total) <= 2
    first_stage = rank_parameters(ARCHITECTURE, parallel=ParallelConfig(pp=2))
    assert first_stage == (total - 2 * table - ARCHITECTURE.hidden_size) // 2 + table


@pytest.mark.parametrize(("dtype", "per_parameter"), [(Dtype.fp32, 16), (Dtype.bf16, 18)])
def test_bytes_of_model_states(dtype: Dtype, per_parameter: int) -> None:
    memory = rank_memory(ARCHITECTURE, data=DataConfig(), parallel=ParallelConfig(), dtype=dtype)
    states = memory.weights + memory.gradients + memory.optimizer
    assert states == per_parameter * num_parameters(ARCHITECTURE)
    assert memory.total == states + memory.activations + memory.logits
    assert checkpoint_bytes(ARCHITECTURE, dtype=dtype) == states - memory.gradients


def test_layouts_save_what_they_promise() -> None:
    def memory(**layout: int | bool) -> dict[str, int]:
        parallel = ParallelConfig(**layout)  # type: ignore[arg-type]
        m = rank_memory(ARCHITECTURE, data=DataConfig(), parallel=parallel, dtype=Dtype.bf16)
        return {"optimizer": m.optimizer, "activations": m.activations, "logits": m.logits}

    single = memory()
    assert memory(dp=2, distributed_optimizer=True)["optimizer"] == single["optimizer"] // 2
    assert memory(dp=2)["optimizer"] == single["optimizer"]
    assert memory(tp=2)["logits"] == single["logits"] // 2
    cut = memory(tp=2, sequence_parallel=True)["activations"]
    assert cut == single["activations"] // 2 < memory(tp=2)["activations"]
    assert memory(pp=2, vpp=2)["activations"] > memory(pp=2)["activations"]


def test_text_fits_eighty_columns_and_json_is_whole() -> None:
    config = config_of(steps=123_456_789)
    config.data.sources["a_source_with_a_very_long_name_indeed"] = SourceConfig(prefix="/x")
    tokens = TOKENS | {"a_source_with_a_very_long_name_indeed": 3_000_000_000_000}
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=tokens)
    text = plan.render()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "web (replay)" in text
    content = json.loads(json.dumps(plan.to_json()))
    assert content["tokens"] == 123_456_789 * 128
    assert content["memory_total_bytes"] == plan.memory.total


def test_a_save_beside_training_takes_a_copy_of_the_rank_s_share() -> None:
    config = config_of()
    config.parallel.dp = 2
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert plan.snapshot_bytes == plan.checkpoint_bytes // 2
    assert "a copy of its share of a checkpoint" in plan.render()
    config.checkpoint.asynchronous = False
    plan = make_plan(config, architecture=ARCHITECTURE, source_tokens=TOKENS)
    assert plan.snapshot_bytes == 0


def test_checkpoints_that_stay() -> None:
    def kept(*words: str) -> int:
        settings = ["experiment=tiny", "schedule.steps=100", "checkpoint.every_steps=8"]
        return checkpoints_kept(compose([*settings, "checkpoint.keep_last=2", *words]))

    assert kept() == 2
    assert kept("checkpoint.keep_best=true") == 3
    assert kept("checkpoint.keep_every_steps=48") == 3, "48, 96 and 100"
    assert kept("checkpoint.keep_every_steps=8", "checkpoint.keep_best=true") == 13
    assert kept("checkpoint.every_steps=200") == 1
