# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any layout goes on in any other: weights, masters, moments, number of updates.

Losses after a load are compared in fp32, where layouts differ by the order of sums alone: a few
units of 6e-8 a term, which eight steps of AdamW amplify to 1e-8 or so in the loss (see parity.py).
The bound of 1e-5 is far above that, and far below what lost moments or a wrong count of updates do:
they change the next losses by 1e-3 and more. In bf16 an order of sums shows at 1e-3 already, so
there what was loaded is saved once more, and both checkpoints hold the same bits.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.parity import GRAD_NORM_RTOL, LOSS_RTOL, write_run_inputs
from tests.train.resharding import STEPS_AFTER

SAVE_AND_LOAD = "tests.train.resharding:save_and_load"
EXPERTS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.1,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "aux_loss_alpha": 0.1,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "head_dim": 16,
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
    "swiglu_limit": 0.5,
    "router_aux_loss_coef": 0.1,
}
LLAMA4 = {
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "head_dim": 16,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 48,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "router_aux_loss_coef": 0.1,
}
NETS = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "full_attention_interval": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 16,
    "mlp_only_layers": [1],
    "router_aux_loss_coef": 0.1,
}
ZERO1, ZERO3 = {"dp": 2, "distributed_optimizer": True}, {"dp": 2, "sharded_weights": True}
TP2_SP = {"tp": 2, "sequence_parallel": True}
DENSE: dict[str, dict[str, Any]] = {
    "single": {},
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
    "dp2-zero1": ZERO1,
    "dp2-zero3": ZERO3,
    "tp2-pp2": {"tp": 2, "pp": 2},
}
STAGES: dict[str, dict[str, Any]] = {
    "pp2-vpp2": {"pp": 2, "vpp": 2},
    "pp2-uneven": {"pp": 2, "first_stage_layers": 1},
}
MIXTURE: dict[str, dict[str, Any]] = {
    "moe-single": {},
    "moe-ep2": {"dp": 2, "ep": 2},
    "moe-tp2": TP2_SP,
    "moe-dp2-zero1": ZERO1,
}
EXPERTS_CUT: dict[str, dict[str, Any]] = {
    "moe-tp2-etp1": TP2_SP | {"etp": 1},
    "moe-ep2-zero1": ZERO1 | {"ep": 2},
}
LATENT: dict[str, dict[str, Any]] = {
    "latent-single": {},
    "latent-tp2": TP2_SP,
    "latent-pp2": {"pp": 2},
}
SINKS: dict[str, dict[str, Any]] = {
    "sinks-single": {},
    "sinks-tp2-ep2": TP2_SP | {"ep": 2, "etp": 1},
    "sinks-pp2": {"pp": 2},
}
CHUNKED: dict[str, dict[str, Any]] = {
    "llama4-single": {},
    "llama4-tp2": TP2_SP,
    "llama4-pp2": {"pp": 2},
}
DELTA_NETS: dict[str, dict[str, Any]] = {
    "nets-single": {},
    "nets-tp2": TP2_SP,
    "nets-pp2": {"pp": 2},
    "nets-ep2-zero1": ZERO1 | {"ep": 2},
}
BF16: dict[str, dict[str, Any]] = {
    "bf16-single": {},
    "bf16-dp2-zero1": ZERO1,
    "bf16-dp2-zero3": ZERO3,
}


def all_pairs(layouts: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a source and a target; that a layout resumes itself is tested elsewhere, bit for bit."""
    return list(permutations(layouts, 2))


def pairs_with(layouts: dict[str, Any], *, partner: str) -> list[tuple[str, str]]:
    return [pair for name in layouts for pair in ((name, partner), (partner, name))]


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": {"rank": 4, "train_embedding": True, "b_lr_multiplier": 2.0}},
    "dora": {"adapter": {"method": "dora", "rank": 4}},
    "lora_xs": {"adapter": {"method": "lora_xs", "rank": 4}},
    "pissa": {"adapter": {"method": "pissa", "rank": 4, "targets": "q_proj,v_proj,up_proj,o_proj"}},
    "lora_moe": {"adapter": {"rank": 4}},
    "lora_bf16": {"adapter": {"rank": 4}, "precision": {"dtype": "bf16"}},
}
"""On all projections, or on some of those that are packed into one; with the table beside them."""
ADAPTED: dict[str, dict[str, Any]] = {
    "lora-single": {},
    "lora-tp2": TP2_SP,
    "lora-dp2-zero1": ZERO1,
    "lora-tp2-pp2": TP2_SP | {"pp": 2},
    "dora-single": {},
    "dora-tp2": TP2_SP,
    "lora_xs-single": {},
    "lora_xs-tp2": TP2_SP,
    "pissa-single": {},
    "pissa-pp2": {"pp": 2},
    "lora_moe-single": {},
    "lora_moe-ep2-zero1": ZERO1 | {"ep": 2},
    "lora_moe-tp2": TP2_SP,
    "lora_bf16-tp2": TP2_SP,
    "lora_bf16-dp2-zero1": ZERO1,
}
CUT: dict[str, dict[str, Any]] = {"single": {}, "tp2": {"tp": 2}, "pp2": {"pp": 2}}
NORMS = {"olmo2": "Olmo2ForCausalLM", "starcoder2": "Starcoder2ForCausalLM"}
"""Families whose norms are cut over ranks, stand elsewhere or have biases."""


def layouts_of(family: str) -> dict[str, dict[str, Any]]:
    return {f"{family}-{name}": parallel for name, parallel in CUT.items()}


def adapted(method: str) -> dict[str, dict[str, Any]]:
    return {name: ADAPTED[name] for name in ADAPTED if name.startswith(f"{method}-")}


DENSE_PAIRS = all_pairs(DENSE) + pairs_with(STAGES, partner="dp2-zero3")
MIXTURE_PAIRS = all_pairs(MIXTURE) + pairs_with(EXPERTS_CUT, partner="moe-tp2")
LATENT_PAIRS = [("latent-tp2", "latent-pp2"), ("latent-pp2", "latent-single")]
SINK_PAIRS = [("sinks-tp2-ep2", "sinks-pp2"), ("sinks-pp2", "sinks-tp2-ep2")]
CHUNKED_PAIRS = [("llama4-tp2", "llama4-pp2"), ("llama4-pp2", "llama4-single")]
NET_PAIRS = [
    ("nets-tp2", "nets-pp2"),
    ("nets-pp2", "nets-single"),
    ("nets-tp2", "nets-single"),
    ("nets-ep2-zero1", "nets-tp2"),
]
BF16_PAIRS = all_pairs(BF16)
ADAPTED_PAIRS = [
    ("lora-single", "lora-tp2-pp2"),
    ("lora-tp2-pp2", "lora-dp2-zero1"),
    ("lora-dp2-zero1", "lora-tp2"),
    ("lora-tp2", "lora-single"),
    ("dora-tp2", "dora-single"),
    ("dora-single", "dora-tp2"),
    ("lora_xs-tp2", "lora_xs-single"),
    ("pissa-pp2", "pissa-single"),
    ("lora_moe-ep2-zero1", "lora_moe-tp2"),
    ("lora_moe-tp2", "lora_moe-ep2-zero1"),
    ("lora_bf16-tp2", "lora_bf16-dp2-zero1"),
    ("lora_bf16-dp2-zero1", "lora_bf16-tp2"),
]
NORM_PAIRS = [pair for f in NORMS for pair in pairs_with({f"{f}-tp2": {}}, partner=f"{f}-pp2")]
pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore, pytest.mark.slow]


def worlds(work: Path) -> dict[int, dict[str, Any]]:
    """World size -> name -> settings, and what the layout loads."""
    experts, deepseek, gpt_oss, llama4, nets = (
        {"model": {"path": str(work / name), "init": "random"}}
        for name in ("experts", "deepseek", "gpt_oss", "llama4", "nets")
    )
    found: dict[int, dict[str, Any]] = {1: {}, 2: {}, 4: {}}
    for layouts, pairs, settings in (
        (DENSE | STAGES, DENSE_PAIRS, {}),
        (MIXTURE | EXPERTS_CUT, MIXTURE_PAIRS, experts),
        (LATENT, LATENT_PAIRS, deepseek),
        (SINKS, SINK_PAIRS, gpt_oss),
        (CHUNKED, CHUNKED_PAIRS, llama4),
        (DELTA_NETS, NET_PAIRS, nets),
        (BF16, BF16_PAIRS, {"precision": {"dtype": "bf16"}}),
        *(
            (adapted(method), ADAPTED_PAIRS, settings | (experts if "moe" in method else {}))
            for method, settings in ADAPTERS.items()
        ),
        *(
            (layouts_of(f), NORM_PAIRS, {"model": {"path": str(work / f), "init": "random"}})
            for f in NORMS
        ),
    ):
        for name, parallel in layouts.items():
            ranks = prod(parallel.get(size, 1) for size in ("tp", "pp", "dp"))
            found[ranks][name] = {
                "parallel": parallel,
                "data": {"micro_batch_size": 4},
                "from": [source for source, target in pairs if target == name],
                **settings,
            }
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Layout -> what it has loaded -> what came of it. All worlds run beside one another."""
    work = tmp_path_factory.mktemp("reshard")
    write_run_inputs(work, tied=True)
    others = {
        family: {"architectures": [name], "model_type": family} for family, name in NORMS.items()
    }
    own = {"experts": EXPERTS, "deepseek": DEEPSEEK, "gpt_oss": GPT_OSS}
    own |= {"llama4": LLAMA4, "nets": NETS}
    for name, changes in (own | others).items():
        shutil.copytree(work / "model", work / name)
        path = work / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    cases: dict[Any, Any] = worlds(work)
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(run_on_ranks, SAVE_AND_LOAD, work, world=n, cases=cases, timeout_s=900.0)
            for n in cases
        ]
    for future in started:
        future.result()
    results: dict[str, dict[str, Any]] = {}
    for world in cases:
        results |= json.loads((work / f"reshard-{world}.json").read_text())
    return results


@pytest.mark.parametrize(("source", "target"), DENSE_PAIRS)
def test_a_dense_model_goes_on(found: dict[str, Any], source: str, target: str) -> None:
    assert_goes_on(found, source, target, single="single")


@pytest.mark.parametrize(("source", "target"), MIXTURE_PAIRS)
def test_experts_go_on(found: dict[str, Any], source: str, target: str) -> None:
    assert_goes_on(found, source, target, single="moe-single")


@pytest.mark.parametrize(
    ("source", "target"), LATENT_PAIRS + SINK_PAIRS + CHUNKED_PAIRS + NET_PAIRS + NORM_PAIRS
)
def test_other_layers_go_on(found: dict[str, Any], source: str, target: str) -> None:
    assert_goes_on(found, source, target, single=f"{source.partition('-')[0]}-single")


@pytest.mark.parametrize(("source", "target"), BF16_PAIRS)
def test_no_bit_of_a_bf16_run_is_lost(found: dict[str, Any], source: str, target: str) -> None:
    assert found[target][source] == []


@pytest.mark.parametrize(("source", "target"), ADAPTED_PAIRS)
def test_no_bit_of_an_adapter_is_lost(found: dict[str, Any], source: str, target: str) -> None:
    assert found[target][f"{source} again"] == []


@pytest.mark.parametrize(("source", "target"), [p for p in ADAPTED_PAIRS if "bf16" not in p[0]])
def test_an_adapter_goes_on(found: dict[str, Any], source: str, target: str) -> None:
    assert_goes_on(found, source, target, single=f"{source.partition('-')[0]}-single")


def assert_goes_on(found: dict[str, Any], source: str, target: str, *, single: str) -> None:
    """As the run that wrote it would have, and as one rank that was never interrupted."""
    curve = np.array(found[target][source])
    assert len(curve) == STEPS_AFTER
    for expected in (np.array(found[source]["own"]), np.array(found[single]["own"])):
        np.testing.assert_allclose(curve[:, 0], expected[:, 0], rtol=LOSS_RTOL)
        np.testing.assert_allclose(curve[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)
