# SPDX-License-Identifier: Apache-2.0
"""What is said of an adapter, and where a plan says it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import AdapterConfig, AdapterMethod
from megacpt.families.targets import with_adapter
from megacpt.plan.adapters import adapter_sentence
from megacpt.plan.learning_rate import rate_table
from megacpt.plan.plan import Plan, make_plan
from tests.plan.rules.test_optim import config_of
from tests.plan.test_check import ARCHITECTURE


def plan_of(adapter: AdapterConfig | None) -> Plan:
    config = replace(config_of({}), adapter=adapter)
    model = with_adapter(ARCHITECTURE, settings=adapter)
    return make_plan(config, architecture=model, source_tokens={"law": 100_000})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "LoRA, rank 16, alpha 32: 4.88M of 134.52M parameters trained (3.6 %)"),
        (
            {"rank": 64, "alpha": 16.0, "rank_stabilised": True},
            "rsLoRA, rank 64, alpha 16: 19.54M of 134.52M parameters trained (15 %)",
        ),
        (
            {"method": AdapterMethod.dora, "rank_stabilised": True},
            "rank-stabilised DoRA, rank 16, alpha 32: 5.04M of 134.52M parameters trained (3.7 %)",
        ),
        (
            {"method": AdapterMethod.lora_xs, "rank": 8, "alpha": 8.0},
            "LoRA-XS, rank 8, alpha 8: 13.44k of 134.52M parameters trained (0.01 %)",
        ),
        (
            {"method": AdapterMethod.pissa, "train_embedding": True},
            "PiSSA, rank 16, alpha 32, and the embedding: 33.20M of 134.52M parameters trained "
            "(25 %)",
        ),
        (
            {"train_embedding": True, "new_tokens_from": 49100},
            "LoRA, rank 16, alpha 32, and the embedding from token 49100 on: 4.91M of 134.52M "
            "parameters trained (3.7 %)",
        ),
    ],
)
def test_method_and_share_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    model = with_adapter(ARCHITECTURE, settings=AdapterConfig(**settings))
    assert adapter_sentence(model) == sentence
    assert adapter_sentence(ARCHITECTURE) is None


def test_the_head_is_named_where_it_is_trained() -> None:
    untied = replace(ARCHITECTURE, tied_embeddings=False)
    both = AdapterConfig(train_embedding=True, train_head=True)
    said = adapter_sentence(with_adapter(untied, settings=both))
    assert said is not None
    assert said.startswith("LoRA, rank 16, alpha 32, and the embedding and")
    assert plan_of(both).adapter is not None


def test_a_plan_says_what_is_trained() -> None:
    plan, whole = plan_of(AdapterConfig(b_lr_multiplier=4.0)), plan_of(None)
    text = plan.render()
    assert "Adapter      LoRA, rank 16, alpha 32\n" in text
    assert "             4.88M of 134.52M parameters trained (3.6 %)\n" in text
    assert "LR of groups adapter_B x 4" in text
    assert "Adapter" not in whole.render()
    assert max(map(len, text.splitlines())) <= 80
    assert (plan.trained_parameters, whole.trained_parameters) == (4_884_480, whole.parameters)
    assert plan.training_flops < 0.75 * whole.training_flops
    assert plan.to_json()["adapter"] == plan.adapter


def test_each_rate_of_an_adapter_has_its_column() -> None:
    config = config_of({"schedule.steps": 1, "schedule.warmup_steps": 0})
    adapter = AdapterConfig(b_lr_multiplier=4.0)
    rows = list(rate_table(optim=config.optim, schedule=config.schedule, adapter=adapter))
    assert rows[0] == "step\tlr\tlr_adapter_B"
    _, rate, of_b = map(float, rows[1].split("\t"))
    assert of_b == pytest.approx(4 * rate)
