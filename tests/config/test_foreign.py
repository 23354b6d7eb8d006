# SPDX-License-Identifier: Apache-2.0
"""Names of other trainers: each points at a setting, and is one that their own sources have."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from megacpt.cli import main
from megacpt.config.foreign import COUNTERPARTS, counterpart_of, suggestion
from megacpt.config.schema import known_keys, to_run_config
from megacpt.errors import ConfigError


def fields_of(package: str, file: str) -> set[str]:
    """Fields of the dataclasses of a file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    assert found is not None
    places = found.submodule_search_locations or []
    tree = ast.parse((Path(next(iter(places))) / file).read_text())
    return {
        item.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def test_every_row_points_at_a_setting_that_exists() -> None:
    known = set(known_keys())
    assert {row.key for row in COUNTERPARTS.values() if row.key} <= known
    assert all(row.key or row.note for row in COUNTERPARTS.values())


def test_names_of_transformers_are_those_of_its_training_arguments() -> None:
    theirs = fields_of("transformers", "training_args.py")
    ours = {
        "learning_rate": "optim.lr_peak",
        "weight_decay": "optim.weight_decay",
        "adam_beta1": "optim.beta1",
        "adam_beta2": "optim.beta2",
        "adam_epsilon": "optim.eps",
        "max_grad_norm": "optim.clip_grad_norm",
        "optim": "optim.optimizer",
        "max_steps": "schedule.steps",
        "num_train_epochs": "schedule.epochs",
        "warmup_steps": "schedule.warmup_steps",
        "lr_scheduler_type": "schedule.shape",
        "per_device_train_batch_size": "data.micro_batch_size",
        "gradient_accumulation_steps": "data.global_batch_size",
        "bf16": "precision.dtype",
        "save_steps": "checkpoint.every_steps",
        "save_total_limit": "checkpoint.keep_last",
        "eval_steps": "evaluate.every_steps",
        "logging_steps": "monitor.log_every_steps",
        "output_dir": "run_dir",
        "run_name": "monitor.wandb_name",
        "gradient_checkpointing": "parallel.recompute",
        "ddp_timeout": "cluster.timeout_minutes",
        "seed": "seed",
    }
    assert set(ours) <= theirs
    assert {name: COUNTERPARTS[name].key for name in ours} == ours


def test_names_of_megatron_are_those_of_megatron_core() -> None:
    theirs = fields_of("megatron.core", "model_parallel_config.py")
    theirs |= fields_of("megatron.core", "transformer/transformer_config.py")
    theirs |= fields_of("megatron.core", "optimizer/optimizer_config.py")
    ours = {
        "tensor_model_parallel_size": "parallel.tp",
        "pipeline_model_parallel_size": "parallel.pp",
        "virtual_pipeline_model_parallel_size": "parallel.vpp",
        "context_parallel_size": "parallel.cp",
        "expert_model_parallel_size": "parallel.ep",
        "expert_tensor_parallel_size": "parallel.etp",
        "sequence_parallel": "parallel.sequence_parallel",
        "use_distributed_optimizer": "parallel.distributed_optimizer",
        "recompute_granularity": "parallel.recompute",
        "recompute_num_layers": "parallel.recompute_layers",
        "fp8": "precision.fp8_format",
        "fp8_recipe": "precision.recipe",
        "fp8_amax_history_len": "precision.amax_history_length",
        "moe_aux_loss_coeff": "model.router_aux_loss_coef",
        "lr": "optim.lr_peak",
        "min_lr": "schedule.lr_final_fraction",
        "weight_decay": "optim.weight_decay",
        "clip_grad": "optim.clip_grad_norm",
        "adam_eps": "optim.eps",
        "bf16": "precision.dtype",
        "tp_comm_overlap": "kernels.tp_comm_overlap",
        "deterministic_mode": "kernels.deterministic",
    }
    assert set(ours) <= theirs
    assert {name: COUNTERPARTS[name].key for name in ours} == ours
    for name in ("num_layers", "hidden_size", "ffn_hidden_size", "num_query_groups"):
        assert name in theirs
        assert counterpart_of(name) is not None
        assert COUNTERPARTS[name].key == ""


@pytest.mark.parametrize(
    ("tree", "hint"),
    [
        (
            {"optim": {"learning_rate": "1e-5"}},
            "optim.learning_rate=1e-5 is not a setting; did you mean optim.lr_peak?",
        ),
        ({"schedule": {"train_iters": 5}}, "did you mean schedule.steps?"),
        ({"train_iters": -1}, "did you mean schedule.steps? But it is off"),
        ({"data": {"max_seq_length": 5}}, "did you mean data.sequence_length?"),
        ({"parallel": {"tp_size": 2}}, "did you mean parallel.tp?"),
        ({"checkpoint": {"save_steps": 500}}, "did you mean checkpoint.every_steps?"),
        ({"save_steps": 0.1}, "checkpoint.every_steps? But it is a share of the run"),
        ({"evaluate": {"eval_interval": 5}}, "did you mean evaluate.every_steps?"),
        ({"bf16": "auto"}, "did you mean precision.dtype=bf16?"),
        ({"ddp_timeout": 1800}, "did you mean cluster.timeout_minutes=30.0?"),
        ({"warmup_ratio": 0.03}, "did you mean schedule.warmup_fraction?"),
        ({"lr_scheduler_type": "constant_with_warmup"}, "did you mean schedule.shape=constant?"),
        ({"lr_decay_style": "inverse-square-root"}, "did you mean schedule.shape=inverse_sqrt?"),
        ({"optim": {"min_lr": "1e-6"}}, "schedule.lr_final_fraction, a fraction of the peak"),
        ({"gradient_accumulation_steps": 4}, "did you mean data.global_batch_size, all samples"),
        ({"train_samples": 10}, "did you mean schedule.tokens, tokens: samples x sequence length?"),
        ({"lora_r": 8}, "did you mean adapter.rank?"),
        ({"load_in_4bit": True}, "did you mean adapter.base=nf4?"),
        ({"finetuning_type": "full"}, "adapter.method? But all weights are trained"),
        ({"num_layers": 8}, "leave it out: config.json of model.path says it"),
        ({"trainer": {"max_steps": 9}}, "trainer.max_steps=9 is not a setting; did you mean sched"),
        (
            {"model": {"optim": {"lr": 1e-4}}},
            "model.optim.lr=0.0001 is not a setting; did you mean optim.lr_peak?",
        ),
    ],
)
def test_the_hint_names_the_setting(tree: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        to_run_config(tree)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "hint"),
    [
        ({"optim": {"lr_peek": 1}}, "did you mean optim.lr_peak?"),
        ({"optim": {"nonsense": 1}}, "the keys of optim are optimizer, muon, lr_peak"),
        ({"data": {"sources": {"law": {"zzz": 1}}}}, "the keys of data.sources.law are prefix"),
        ({"zzz": 1}, "the sections are run_dir, seed, objective, model"),
        ({"cluster": {"slurm": {"partiton": 1}}}, "did you mean cluster.slurm.partition?"),
    ],
)
def test_other_hints_stay_in_their_section(tree: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        to_run_config(tree)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--learning_rate", "1e-5"], "did you mean optim.lr_peak?"),
        (["--lr-decay-style", "WSD"], "did you mean schedule.shape=wsd?"),
        (["--bf16"], "did you mean precision.dtype=bf16?"),
        (["--num-layers=8"], "leave it out: config.json of model.path says it"),
    ],
)
def test_an_option_of_another_trainer_is_known(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "experiment=tiny", *words])
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err


def test_an_unknown_name_has_no_suggestion() -> None:
    assert suggestion("frobnicate", value=1) is None
