# SPDX-License-Identifier: Apache-2.0
"""Rules of adapters: every sentence, what is let through, and the advice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import AdapterConfig, AdapterMethod
from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.peft_settings import PEFT_SETTINGS
from megacpt.families.targets import with_adapter
from megacpt.plan.check import violations
from megacpt.plan.plan import make_plan
from megacpt.plan.rules import adapter
from tests.plan.rules.test_experts import MIXTURE
from tests.plan.rules.test_optim import config_of
from tests.plan.test_check import ARCHITECTURE

UNTIED = replace(ARCHITECTURE, tied_embeddings=False)
OFF = "but with an adapter the model's weights stay as they are; use"


def sentences(changes: dict[str, Any], *, model: Architecture | None = UNTIED) -> list[str]:
    settings = AdapterConfig(**{k[8:]: v for k, v in changes.items() if k.startswith("adapter.")})
    others = {k: v for k, v in changes.items() if not k.startswith("adapter.")}
    config = replace(config_of(others), adapter=settings)
    return [str(violation) for violation in violations(config, architecture=model)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"adapter.targets": "q_prj"},
            "adapter.targets=q_prj matches no linear layer of this llama model; did you mean "
            "q_proj? it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj and v_proj; "
            "all-linear takes all of them",
        ),
        (
            {"adapter.layers": "0-30"},
            "adapter.layers=0-30 names no layers from 0 to 29: 0-30; use numbers and ranges "
            "separated by commas, such as 0-3,7",
        ),
        (
            {"adapter.rank": 193},
            "adapter.rank=193 is above the smaller side of k_proj, 192; use 192 or less, or leave "
            "it out of adapter.targets",
        ),
        (
            {"adapter.rank": 577, "adapter.targets": "up_proj,o_proj"},
            "adapter.rank=577 is above the smaller side of o_proj, 576; use 576 or less, or leave "
            "it out of adapter.targets",
        ),
        (
            {"adapter.method": AdapterMethod.lora_xs, "adapter.b_lr_multiplier": 4.0},
            "adapter.b_lr_multiplier=4.0 is of factors that begin with zero, which "
            "adapter.method=lora_xs does not train; use 1, or adapter.method=lora",
        ),
        (
            {"optim.embedding_lr_multiplier": 0.1},
            "optim.embedding_lr_multiplier=0.1 is of weights that are not trained beside the "
            "adapter; use 1, or adapter.train_embedding=true",
        ),
        (
            {"optim.head_lr_multiplier": 0.1},
            "optim.head_lr_multiplier=0.1 is of weights that are not trained beside the adapter; "
            "use 1, or adapter.train_head=true",
        ),
        (
            {"adapter.new_tokens_from": 49000},
            "adapter.new_tokens_from=49000 is of the rows of tables that are not trained; use "
            "adapter.train_embedding=true, or adapter.new_tokens_from=null",
        ),
        (
            {"adapter.new_tokens_from": 49152, "adapter.train_embedding": True},
            "adapter.new_tokens_from=49152 is behind the model's last token, 49151; name the first "
            "id of megacpt vocabulary --add",
        ),
        (
            {"optim.optimizer": "muon"},
            f"optim.optimizer=muon orthogonalises updates of whole weights, {OFF} "
            "optim.optimizer=adamw, or adapter=none",
        ),
        (
            {"parallel.sharded_weights": True, "parallel.dp": 2},
            f"parallel.sharded_weights=true cuts gradients and state of all weights, {OFF} "
            "parallel.sharded_weights=false, or adapter=none",
        ),
        (
            {"adapter.layers": "0-9", "parallel.pp": 3},
            "adapter.layers=0-9 with adapter.targets=all-linear trains nothing in layers 10 to 19, "
            "which are a pipeline stage; name a layer among them and targets that it has, or use "
            "fewer stages",
        ),
        (
            {
                "adapter.layers": "0-4,10-19",
                "parallel.pp": 3,
                "parallel.vpp": 2,
                "data.global_batch_size": 9,
            },
            "adapter.layers=0-4,10-19 with adapter.targets=all-linear trains nothing in layers 5 "
            "to 9, which are a pipeline stage; name a layer among them and targets that it has, or "
            "use fewer stages",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_each_rule_names_value_and_remedy(changes: dict[str, Any], message: str) -> None:
    assert message in sentences(changes)
    assert len(sentences(changes)) == 1


def test_fp8_weights_are_refused_beside_what_fp8_itself_asks_for() -> None:
    message = f"precision.fp8_param_gather=true keeps in fp8 what an update has changed, {OFF} "
    found = sentences({"precision.fp8_param_gather": True})
    assert f"{message}precision.fp8_param_gather=false, or adapter=none" in found


def test_a_tied_head_is_trained_by_its_embedding() -> None:
    asked = {"adapter.train_head": True}
    assert sentences(asked) == []
    assert sentences(asked, model=ARCHITECTURE) == [
        "adapter.train_head=true has no tensor of its own: the model's head is its embedding; "
        "use adapter.train_embedding=true, which trains both"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter.rank": 192},
        {"adapter.rank": 193, "adapter.targets": "up_proj"},
        {"adapter.b_lr_multiplier": 16.0},
        {"adapter.train_embedding": True, "optim.embedding_lr_multiplier": 0.1},
        {"adapter.new_tokens_from": 49151, "adapter.train_embedding": True},
        {"adapter.new_tokens_from": 1, "adapter.train_head": True},
        {"adapter.layers": "9,10,29", "parallel.pp": 3},
        {"adapter.layers": "0,15", "parallel.pp": 2},
        # A table that is trained gives its stage something to learn.
        {"adapter.layers": "15", "parallel.pp": 2, "adapter.train_embedding": True},
        {"adapter.layers": "0", "parallel.pp": 2, "adapter.train_head": True},
    ],
    ids="+".join,
)
def test_what_can_be_trained_is_let_through(changes: dict[str, Any]) -> None:
    assert sentences(changes) == []


def test_without_a_model_its_rules_wait() -> None:
    assert sentences({"adapter.targets": "q_prj", "adapter.rank": 10**6}, model=None) == []


def test_layers_that_have_none_of_the_targets_are_no_adapter() -> None:
    asked = {"adapter.targets": r".*\.experts\.\d+\..*", "adapter.layers": "0"}
    assert sentences(asked, model=MIXTURE) == []
    assert MIXTURE.experts is not None
    dense_first = replace(MIXTURE, experts=replace(MIXTURE.experts, dense_layers=(0,)))
    [refused] = sentences(asked, model=dense_first)
    assert "trains nothing in layers 0 to 29, which are all; name a layer among them" in refused


def test_advice_on_scale_dropout_and_rate() -> None:
    def advice(**settings: Any) -> list[str]:
        adapted = with_adapter(UNTIED, settings=AdapterConfig(**settings))
        return list(adapter.advice(adapted.adapter))

    assert advice() == advice(rank=64, alpha=16.0) == advice(rank=16, alpha=64.0) == []
    assert advice(rank=64, alpha=16.0, rank_stabilised=True) == []
    [small] = advice(rank=256, alpha=16.0)
    assert "adapter.alpha=16 with rank 256 multiplies the update by 0.0625 (alpha / rank)" in small
    [large] = advice(rank=64, alpha=128.0, rank_stabilised=True)
    assert "by 16 (alpha / sqrt(rank)); 0.25 to 4 is usual" in large
    [dropped] = advice(method=AdapterMethod.lora_xs, dropout=0.1, alpha=16.0)
    assert "lora_xs, which trains 256 values a weight" in dropped


@pytest.mark.parametrize(("peak", "said"), [(2e-4, False), (2e-5, True), (1e-3, True)])
def test_rates_are_those_of_adapters(peak: float, said: bool) -> None:
    config = config_of({"optim.lr_peak": peak, "optim.base_lr_peak": 3e-4})
    plan = make_plan(
        replace(config, adapter=AdapterConfig()),
        architecture=UNTIED,
        source_tokens={"law": 100_000},
    )
    about = [sentence for sentence in plan.advice if "lr_peak" in sentence]
    assert bool(about) is said
    assert all("outside 5e-05 to 0.0005, which is usual for adapters" in s for s in about)


STATED = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"rank": 16}, "adapter.rank=16 is 8 in adapter.load_from={}; use adapter.rank=8"),
        (
            {"alpha": 8.0},
            "adapter.alpha=8.0 is 16.0 in adapter.load_from={}; use adapter.alpha=16.0",
        ),
        (
            {"method": AdapterMethod.lora},
            "adapter.method=lora is dora in adapter.load_from={}; use adapter.method=dora",
        ),
        (
            {"rank_stabilised": True},
            "adapter.rank_stabilised=true is false in adapter.load_from={}; use "
            "adapter.rank_stabilised=false",
        ),
    ],
)
def test_a_folder_of_other_settings_is_no_beginning(
    own: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / PEFT_SETTINGS).write_text(json.dumps(STATED))
    same = AdapterConfig(method=AdapterMethod.dora, rank=8, alpha=16.0, load_from=str(tmp_path))
    assert list(adapter.load_from_violations(same)) == []
    [refused] = adapter.load_from_violations(replace(same, **own))
    assert str(refused) == message.format(tmp_path)


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        (None, "is no folder; name the folder of adapter_config.json, as PEFT"),
        ("README.md", "has no adapter_config.json; name the folder of"),
        ("run.yaml", "is a run, not a folder of PEFT's; use adapter.load_from={}/adapter, which"),
    ],
)
def test_what_is_no_folder_of_peft_s_is_no_beginning(
    holds: str | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    if holds is not None:
        folder.mkdir()
        (folder / holds).touch()
    [refused] = adapter.load_from_violations(AdapterConfig(load_from=str(folder)))
    assert f"adapter.load_from={folder} {message.format(folder)}" in str(refused)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "states peft_type=LOHA; LoRA, rsLoRA and DoRA alone are read"),
        ({"r": None}, "does not state rank and alpha as numbers"),
        ({"bias": "all"}, "states bias=all"),
    ],
)
def test_a_folder_of_no_lora_is_no_beginning(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / PEFT_SETTINGS).write_text(json.dumps(STATED | changes))
    with pytest.raises(ModelError, match=message):
        list(adapter.load_from_violations(AdapterConfig(load_from=str(tmp_path))))
