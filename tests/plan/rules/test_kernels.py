# SPDX-License-Identifier: Apache-2.0
"""What the section ``kernels`` excludes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import (
    AdapterConfig,
    ClusterConfig,
    DataConfig,
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    RunConfig,
    StageConfig,
    VariableConfig,
)
from megacpt.families.architecture import DeltaNet, Latent, Norms, Scales
from megacpt.plan.check import violations
from megacpt.plan.rules.kernels import RULES, advice_for_gpus
from tests.plan.test_check import ARCHITECTURE, broken, config_of


def overlapping() -> RunConfig:
    return RunConfig(
        parallel=ParallelConfig(tp=2, sequence_parallel=True),
        kernels=KernelsConfig(tp_comm_overlap=True),
        cluster=ClusterConfig(device=DeviceKind.gpu),
    )


def texts(config: RunConfig) -> list[str]:
    return broken(RULES, config=config)


def test_defaults_break_nothing() -> None:
    assert texts(RunConfig()) == []
    assert texts(overlapping()) == []


def test_overlap_needs_sequence_parallelism() -> None:
    config = overlapping()
    config.parallel = ParallelConfig()
    assert texts(config) == [
        "kernels.tp_comm_overlap=true needs parallel.sequence_parallel and parallel.tp above 1, "
        "but tp=1; set parallel.sequence_parallel=true and parallel.tp=2 or more"
    ]


def test_overlap_says_all_that_is_in_its_way() -> None:
    config = overlapping()
    config.cluster.device = DeviceKind.cpu
    config.precision = PrecisionConfig(dtype=Dtype.fp32, recipe=Recipe.nvfp4)
    config.kernels.deterministic = True
    config.data = DataConfig(stages={"long": StageConfig(from_step=5, sequence_length=1024)})
    found = texts(config)
    for words in (
        "needs GPUs, but cluster.device=cpu; use kernels.tp_comm_overlap=false",
        "has buffers of bf16, but precision.dtype=fp32; use precision.dtype=bf16",
        "cannot carry precision.recipe=nvfp4; use precision.recipe=none, delayed, tensorwise",
        "has buffers of one size, but stages have sequence lengths [512, 1024]; use one length",
        "adds in an order of its own, but kernels.deterministic=true; set one of them to false",
    ):
        assert any(f"kernels.tp_comm_overlap=true {words}" in text for text in found), words
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("NCCL-DEBUG", "is no name of an environment variable"),
        ("LOCAL_RANK", "belongs to the launcher of the ranks"),
        ("SLURM_PROCID", "belongs to the launcher of the ranks"),
        ("WANDB_API_KEY", "looks like a secret, which run.yaml would show"),
        ("HF_TOKEN", "looks like a secret, which run.yaml would show"),
    ],
)
def test_names_of_variables(name: str, rule: str) -> None:
    config = RunConfig()
    config.kernels.environment = {name: VariableConfig(value="1")}
    (found,) = texts(config)
    assert found.startswith(f"kernels.environment.{name}={{...}} {rule}; ")


def test_harmless_names() -> None:
    config = RunConfig()
    names = ("NCCL_DEBUG", "TOKENIZERS_PARALLELISM", "UCX_TLS")
    config.kernels.environment = {name: VariableConfig(value="1") for name in names}
    assert texts(config) == []


def test_a_number_of_steps_is_not_negative() -> None:
    config = RunConfig(kernels=KernelsConfig(manual_gc_steps=-1))
    expected = "kernels.manual_gc_steps=-1 is below 0; use 0 or more"
    assert texts(config) == [expected]
    assert expected in [str(violation) for violation in violations(config)]


def test_overlap_has_no_buffers_for_latent_attention() -> None:
    latent = Latent(query_rank=None, kv_rank=8, plain_dim=4, value_dim=4)
    architecture = replace(ARCHITECTURE, family="deepseek_v3", latent=latent)
    assert broken(RULES, config=RunConfig(), architecture=architecture) == []
    assert broken(RULES, config=overlapping(), architecture=architecture) == [
        "kernels.tp_comm_overlap=true has buffers of hidden states, but deepseek_v3's latent "
        "attention gathers what it makes of them; use kernels.tp_comm_overlap=false"
    ]


def test_overlap_needs_gradients_of_weights() -> None:
    config = overlapping()
    assert texts(config) == []
    config.adapter = AdapterConfig()
    assert texts(config) == [
        "kernels.tp_comm_overlap=true sums gradients of inputs during the products of weights' "
        "gradients, but beside an adapter weights have none; use kernels.tp_comm_overlap=false, or "
        "adapter=none"
    ]


NET = DeltaNet(layers=(0, 1), key_heads=2, value_heads=4, key_dim=16, value_dim=16, kernel=4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"scales": Scales(attention_cap=50.0)},
            "a bound of attention scores (attn_logit_softcapping=50.0)",
        ),
        ({"delta_net": NET}, "gated delta nets"),
        ({"norms": Norms(centred=True), "parallel_mlp": True}, None),
    ],
)
def test_what_no_kernel_computes_is_said(changes: dict[str, Any], what: str | None) -> None:
    architecture = replace(ARCHITECTURE, **changes)
    on_gpus, on_cpus = (config_of({"cluster.device": device}) for device in ("gpu", "cpu"))
    assert list(advice_for_gpus(on_cpus, model=architecture)) == []
    expected = f"cluster.device=gpu: a llama model has {what}, for which Transformer Engine has no "
    expected += "kernel; torch's operations compute it, which takes longer."
    assert list(advice_for_gpus(on_gpus, model=architecture)) == ([expected] if what else [])
