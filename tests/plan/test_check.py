# SPDX-License-Identifier: Apache-2.0
"""Every rule: broken by one change to a sound configuration, named with value and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.limits import beyond_limits
from megacpt.config.paths import configs_root
from megacpt.config.schema import to_run_config
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError
from megacpt.families.architecture import Architecture
from megacpt.plan.check import violations
from megacpt.plan.rules import Facts, Rule
from megacpt.tokenizer import load_tokenizer

ARCHITECTURE = Architecture(
    family="llama",
    num_layers=30,
    hidden_size=576,
    ffn_hidden_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_positions=2048,
    norm_eps=1e-5,
    tied_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    rope_theta=1e5,
    rope_scaling=None,
    initializer_range=0.02,
    bos_id=None,
    eos_id=0,
    pad_id=None,
)
SOUND: dict[str, Any] = {
    "model.path": "/m",
    "data.sources.law.prefix": "/law",
    "data.sources.web.prefix": "/web",
    "data.replay.source": "web",
    "data.replay.share": 0.25,
    "evaluate.heldout.law.prefix": "/law_held",
    "evaluate.heldout.web.prefix": "/web_held",
    "evaluate.domain": "law",
    "evaluate.general": "web",
}


def config_of(changes: Mapping[str, Any]) -> RunConfig:
    tree: dict[str, Any] = {}
    for path, value in (SOUND | dict(changes)).items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return to_run_config(tree)


def messages(changes: Mapping[str, Any], **facts: Any) -> list[str]:
    """Without the layout that a remedy names (see test_plan_layout_rules.py)."""
    try:
        config = config_of(changes)
    except ConfigError as refused:
        found = list(refused.violations)
    else:
        found = violations(config, **({"architecture": ARCHITECTURE} | facts))
    return [str(violation).split("; nearest valid layout")[0] for violation in found]


def broken(rules: Sequence[Rule], *, config: RunConfig, **facts: Any) -> list[str]:
    """The sentences of the limits and of these rules alone."""
    known = Facts(config=config, **facts)
    found = (violation for rule in rules for violation in rule(known))
    return [str(violation) for violation in (*beyond_limits(config), *found)]


def test_a_sound_configuration_breaks_nothing() -> None:
    assert messages({}, shard_tokens={"law": 10_000, "web": 10_000}, num_ranks=1) == []
    assert (
        messages(
            {"parallel.tp": 3, "parallel.sequence_parallel": True, "data.sequence_length": 513}
        )
        == []
    )
    assert messages({"parallel.pp": 3, "parallel.vpp": 2, "data.global_batch_size": 9}) == []
    assert messages({"data.replay.share": 0.125}) == [], "exactly one sample of eight"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"parallel.tp": 4},
            "parallel.tp=4 does not divide num_key_value_heads=3; use 1 or 3",
        ),
        ({"parallel.tp": 4}, "parallel.tp=4 does not divide num_attention_heads=9; use 1 or 3"),
        ({"parallel.tp": 9}, "parallel.tp=9 does not divide intermediate_size=1536; use 1 or 3"),
        (
            {"parallel.pp": 4},
            "parallel.pp=4 does not divide num_hidden_layers=30; use 1, 2, 3, 5, 6, 10, 15 or 30, "
            "or uneven stages (parallel.first_stage_layers, parallel.last_stage_layers)",
        ),
        (
            {"parallel.pp": 2, "parallel.vpp": 2},
            "parallel.vpp=2 times pp=2 does not divide num_hidden_layers=30; use 1, 3, 5 or 15",
        ),
        (
            {"parallel.vpp": 3},
            "parallel.vpp=3 needs more than one pipeline rank, but parallel.pp=1; "
            "use parallel.vpp=1 or parallel.pp=2",
        ),
        (
            {"parallel.pp": 3, "parallel.vpp": 2},
            "data.global_batch_size=8 gives 8 microbatches, which the interleaved schedule cannot "
            "deal to parallel.pp=3; use 6 or 9",
        ),
        (
            {"parallel.dp": 3},
            "data.global_batch_size=8 is no multiple of micro_batch_size=1 * dp=3; use 6 or 9",
        ),
        (
            {"parallel.dp": 16},
            "data.global_batch_size=8 is no multiple of micro_batch_size=1 * dp=16; use 16",
        ),
        (
            {"parallel.sequence_parallel": True},
            "parallel.sequence_parallel=true needs more than one tensor-parallel rank, but "
            "parallel.tp=1; use parallel.sequence_parallel=false or parallel.tp=2",
        ),
        (
            {"parallel.sequence_parallel": True, "parallel.tp": 3},
            "data.sequence_length=512 is no multiple of parallel.tp=3, which sequence_parallel "
            "needs; use 510 or 513",
        ),
        (
            {"parallel.overlap_param_gather": True, "parallel.overlap_grad_reduce": True},
            "parallel.overlap_param_gather=true needs parallel.distributed_optimizer; "
            "set parallel.distributed_optimizer=true",
        ),
        (
            {"parallel.overlap_param_gather": True, "parallel.distributed_optimizer": True},
            "parallel.overlap_param_gather=true needs parallel.overlap_grad_reduce; "
            "set parallel.overlap_grad_reduce=true",
        ),
        (
            {"data.replay.source": "wiki"},
            "data.replay.source=wiki is not among data.sources (law, web); set "
            "data.sources.wiki.prefix=SHARD or data.replay.source=law or data.replay.source=web",
        ),
        (
            {"data.replay.share": 1.0},
            "data.replay.share=1.0 is outside (0, 1); 0.05 to 0.2 is usual; "
            "data.replay=null trains without replay",
        ),
        (
            {"data.replay.share": 0.1},
            "data.replay.share=0.1 leaves less than one sample of a global batch for one side, "
            "with data.global_batch_size=8; use data.global_batch_size=10 or more",
        ),
        (
            {"data.sources.law.weight": 0},
            "data.sources.law.weight=0.0 is not above 0; "
            "use a positive weight, or leave the source out with ~data.sources.law",
        ),
        (
            {"data.sources.law.weight": float("nan")},
            "data.sources.law.weight=nan is not above 0; "
            "use a positive weight, or leave the source out with ~data.sources.law",
        ),
        (
            {"data.sources.law.prefix": None},
            "data.sources.law.prefix=null names no token shard; "
            "set data.sources.law.prefix=SHARD, a shard written by megacpt tokenize",
        ),
        (
            {"data.sources.law.synthetic.seed": 1},
            "data.sources.law.prefix=/law is set beside data.sources.law.synthetic; "
            "set data.sources.law.synthetic=null to use the shard",
        ),
        (
            {"data.sources.a b.prefix": "/x"},
            "data.sources.a b={...} has a name with other signs than letters, digits, _ and -; "
            "rename it",
        ),
        (
            {"evaluate.heldout.law.prefix": None},
            "evaluate.heldout.law.prefix=null names no token shard; "
            "set evaluate.heldout.law.prefix=SHARD, a shard written by megacpt tokenize",
        ),
        (
            {"evaluate.heldout.law.prefix": "/law"},
            "evaluate.heldout.law.prefix=/law is also trained on, as data.sources.law; "
            "hold out other documents",
        ),
        (
            {"evaluate.general": "wiki"},
            "evaluate.general=wiki is not among evaluate.heldout (law, web); "
            "set evaluate.heldout.wiki.prefix=SHARD or name one of law, web",
        ),
        (
            {"evaluate.domain": None, "evaluate.gate.domain_perplexity_ratio_max": 0.9},
            "evaluate.gate.domain_perplexity_ratio_max=0.9 needs a domain set, but "
            "evaluate.domain is not set; set evaluate.domain=NAME, one of evaluate.heldout",
        ),
        (
            {"evaluate.gate.forgetting_max_nats": 0.1, "evaluate.general": None},
            "evaluate.gate.forgetting_max_nats=0.1 needs a general set, but "
            "evaluate.general is not set; set evaluate.general=NAME, one of evaluate.heldout",
        ),
        (
            {"evaluate.gate.gain_min_points": 1.0},
            "evaluate.gate.gain_min_points=1.0 needs a benchmark of role gain, and there is none; "
            "set evaluate.benchmarks.NAME.role=gain of one, or leave it out",
        ),
        (
            {"evaluate.gate.action": "stop"},
            "evaluate.gate.action=stop needs a benchmark of role retention that is measured in "
            "training, or a limit of forgetting; set role=retention and every_steps of one of "
            "evaluate.benchmarks, or evaluate.gate.stop_forgetting_nats",
        ),
        (
            {"evaluate.gate.stop_forgetting_nats": 0.1},
            "evaluate.gate.stop_forgetting_nats=0.1 ends no run unless evaluate.gate.action is "
            "stop; set evaluate.gate.action=stop, or leave it out",
        ),
        (
            {
                "evaluate.gate.stop_forgetting_nats": 0.1,
                "evaluate.gate.action": "stop",
                "evaluate.general": None,
            },
            "evaluate.gate.stop_forgetting_nats=0.1 needs a general set, but evaluate.general is "
            "not set; set evaluate.general=NAME, one of evaluate.heldout",
        ),
        (
            {
                "evaluate.gate.stop_forgetting_nats": 0.1,
                "evaluate.gate.action": "stop",
                "evaluate.every_steps": 0,
            },
            "evaluate.gate.stop_forgetting_nats=0.1 is never looked at, as evaluate.every_steps "
            "is 0; set evaluate.every_steps, such as 100",
        ),
        (
            {"evaluate.gate.confidence": 1.0},
            "evaluate.gate.confidence=1.0 is outside (0.5, 1); 0.95 is usual",
        ),
        (
            {"schedule.steps": 5},
            "schedule.warmup_steps=5 leaves no step after warmup, with schedule.steps=5; "
            "use at most 4, or more steps",
        ),
        ({"schedule.steps": 0}, "schedule.steps=0 is below 1; use 1 or more"),
        ({"data.micro_batch_size": 0}, "data.micro_batch_size=0 is below 1; use 1 or more"),
        ({"parallel.dp": -1}, "parallel.dp=-1 is below 1; use 1 or more"),
        ({"optim.lr_peak": 0}, "optim.lr_peak=0.0 is not above 0; use a positive number"),
        (
            {"optim.lr_peak": float("inf")},
            "optim.lr_peak=inf is not above 0; use a positive number",
        ),
        ({"optim.weight_decay": -1}, "optim.weight_decay=-1.0 is below 0; use 0 or more"),
        ({"optim.beta2": 1.0}, "optim.beta2=1.0 is outside [0, 1); 0.9 to 0.999 is usual"),
        (
            {"schedule.lr_final_fraction": 2},
            "schedule.lr_final_fraction=2.0 is outside [0, 1]; 0.1 is usual",
        ),
        (
            {"model.path": None},
            "model.path=null names no model; "
            "set model.path=FOLDER, a Hugging Face folder with config.json",
        ),
        (
            {"data.sequence_length": 4096},
            "data.sequence_length=4096 is above max_position_embeddings=2048 of the model; "
            "use 2048 or less",
        ),
    ],
)
def test_a_broken_rule_is_named(changes: dict[str, Any], expected: str) -> None:
    assert expected in messages(changes)


def test_synthetic_sources_are_checked() -> None:
    synthetic = {"data.sources.law.prefix": None, "data.sources.law.synthetic.documents": 0}
    assert "data.sources.law.synthetic.documents=0 is below 1; use 1 or more" in messages(synthetic)
    topic = {"data.sources.law.prefix": None, "data.sources.law.synthetic.topic": "sea"}
    assert (
        "data.sources.law.synthetic.topic=sea is not a topic of the generator; "
        "use plant or kitchen" in messages(topic)
    )
    seed = {
        "data.sources.law.prefix": None,
        "data.sources.law.synthetic.seed": 7,
        "evaluate.heldout.law.prefix": None,
        "evaluate.heldout.law.synthetic.seed": 7,
    }
    assert any("is also trained on, as data.sources.law" in m for m in messages(seed))


def test_no_source_and_a_lone_replay_source_are_refused() -> None:
    config = config_of({})
    empty = replace(config, data=replace(config.data, sources={}))
    found = [str(v) for v in violations(empty)]
    assert any(m.startswith("data.sources={} names no text to train on") for m in found)
    alone = replace(config.data, sources={"web": config.data.sources["web"]})
    found = [str(v) for v in violations(replace(config, data=alone))]
    assert found == [
        "data.replay.source=web is the only source; "
        "add a domain source: data.sources.NAME.prefix=SHARD"
    ]


def test_ranks_started_from_outside_must_fit_the_layout() -> None:
    assert messages({"parallel.tp": 3}, num_ranks=6) == [
        "parallel.dp=1 with tp=3, cp=1 and pp=1 makes 3 ranks, but 6 were started; "
        "start 3 ranks or use parallel.dp=2"
    ]
    assert messages({"parallel.tp": 3}, num_ranks=4)[0].endswith("start 3 ranks")


def test_a_source_must_hold_a_sample() -> None:
    assert messages({}, shard_tokens={"law": 512, "web": 513}) == [
        "data.sequence_length=512 needs 513 tokens a sample, but source law holds 512; "
        "add text to law or use 511 or less"
    ]


def test_rules_wait_for_facts_they_lack() -> None:
    assert messages({"parallel.tp": 4, "parallel.pp": 4}, architecture=None) == []


def test_all_broken_rules_come_in_one_error() -> None:
    found = violations(
        config_of({"parallel.tp": 4, "schedule.steps": 0, "data.replay.share": 2.0}),
        architecture=ARCHITECTURE,
    )
    message = str(ConfigError(found))
    assert message.startswith("4 settings cannot be used as they are:\n  1. ")
    assert all(word in message for word in ("parallel.tp=4", "schedule.steps=0", "share=2.0"))


STAGE = {"data.stages.late.from_step": 50}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data.stages.late.global_batch_size": 9, "parallel.dp": 2},
            "data.stages.late.global_batch_size=9 is no multiple of micro_batch_size=1 * dp=2; "
            "use 8 or 10",
        ),
        (
            {"data.stages.late.global_batch_size": 10, "parallel.pp": 3, "parallel.vpp": 2}
            | {"data.global_batch_size": 9},
            "data.stages.late.global_batch_size=10 gives 10 microbatches, which the interleaved "
            "schedule cannot deal to parallel.pp=3; use 9 or 12",
        ),
        (
            {"data.stages.late.sequence_length": 4096},
            "data.stages.late.sequence_length=4096 is above max_position_embeddings=2048 of the "
            "model; use 2048 or less",
        ),
        (
            {"data.stages.late.sequence_length": 256, "data.chunk_length": 1536}
            | {"parallel.tp": 3, "parallel.sequence_parallel": True, "data.sequence_length": 768},
            "data.stages.late.sequence_length=256 is no multiple of parallel.tp=3, which "
            "sequence_parallel needs; use 255 or 258",
        ),
        (
            {"data.stages.late.replay_share": 0.1},
            "data.stages.late.replay_share=0.1 leaves less than one sample of a global batch for "
            "one side, with data.global_batch_size=8; use data.global_batch_size=10 or more",
        ),
        (
            {"data.stages.late.global_batch_size": 2},
            "data.replay.share=0.25 leaves less than one sample of a global batch for one side, "
            "with data.stages.late.global_batch_size=2; use "
            "data.stages.late.global_batch_size=4 or more",
        ),
        (
            {"data.stages.late.sources": {"wiki": {}}},
            "data.stages.late.sources.wiki={...} is not among data.sources (law, web); "
            "set data.sources.wiki.prefix=SHARD, or leave it out of the stage",
        ),
        (
            {"data.stages.other.from_tokens": 50 * 8 * 512},
            "data.stages.other.from_tokens=204800 begins the stage at step 50, where stage late "
            "does; give each stage a step of its own, or make them one stage",
        ),
        (
            {"data.order": "megatron"},
            "data.stages=late is not possible with data.order=megatron; use data.order=keyed, or "
            "leave it out",
        ),
        (
            {"data.sources.law.max_epochs": 0},
            "data.sources.law.max_epochs=0.0 is not above 0; use a positive number, or "
            "data.sources.law.max_epochs=null for no cap",
        ),
    ],
)
def test_a_broken_stage_is_named_once(changes: dict[str, Any], expected: str) -> None:
    assert messages(STAGE | changes) == [expected]


def test_a_run_beyond_the_epochs_of_a_source_is_refused() -> None:
    """6 of 8 samples a step are law's; 200 samples are an epoch, 66 steps are within 2."""
    changes = {"data.sources.law.max_epochs": 2, "schedule.steps": 66}
    tokens = {"law": 200 * 512 + 1, "web": 10**6}
    assert messages(changes, shard_tokens=tokens) == []
    assert messages(changes | {"schedule.steps": 100}, shard_tokens=tokens) == [
        "data.sources.law.max_epochs=2.0 is exceeded: 100 steps go through law 3.000 times; use "
        "schedule.steps=66 or fewer, a smaller share of law, or more text"
    ]


def test_a_shard_must_hold_a_sample_of_every_stage() -> None:
    changes = STAGE | {"data.stages.late.sequence_length": 1024}
    found = messages(changes, shard_tokens={"law": 10_000, "web": 800})
    assert found == [
        "data.stages.late.sequence_length=1024 needs 1025 tokens a sample, but source web holds "
        "800; add text to web or use 799 or less"
    ]


@pytest.mark.parametrize(
    ("ids", "eos_id", "changes", "expected"),
    [
        (49152, 0, {}, []),
        (49000, None, {"model.init": "random"}, []),
        (49153, 0, {}, ["a tokenizer of 49153 ids, but a vocab_size of 49152 rows"]),
        (50000, 0, {"model.init": "random"}, ["a tokenizer of 50000 ids"]),
        (50000, None, {"model.allow_unhealthy": True}, []),
        (49152, None, {}, ["a tokenizer that states no end-of-text token"]),
        (49153, None, {}, ["a tokenizer of 49153 ids", "that states no end-of-text token"]),
    ],
)
def test_the_tokenizer_fits_the_model(
    ids: int, eos_id: int | None, changes: dict[str, Any], expected: list[str]
) -> None:
    tokenizer = replace(load_tokenizer(configs_root() / "model" / "tiny"), vocab_size=ids)
    found = messages(changes, tokenizer=replace(tokenizer, eos_id=eos_id))
    assert len(found) == len(expected)
    assert all(
        message.startswith("model.path=/m has") and words in message
        for message, words in zip(found, expected, strict=True)
    )
