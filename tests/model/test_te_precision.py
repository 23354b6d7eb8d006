# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's layers of every family in every recipe, constructed for real.

`make test-te` builds Transformer Engine and runs these; elsewhere they are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.families import FAMILIES
from tests.model.test_te import run_python
from tests.run_on_ranks import run_on_ranks
from tests.support import LLAMA, write_model_folder

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]

NUM_LAYERS = LLAMA["num_hidden_layers"]
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
}
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": LLAMA["intermediate_size"],
    "router_aux_loss_coef": 0.02,
}
QWEN2_MOE = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": LLAMA["intermediate_size"],
    "shared_expert_intermediate_size": LLAMA["intermediate_size"],
    "router_aux_loss_coef": 0.02,
}
GLM4_MOE = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": LLAMA["intermediate_size"],
    "first_k_dense_replace": 0,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": LLAMA["intermediate_size"],
    "first_k_dense_replace": 0,
}
DEEPSEEK_V2 = LATENT | {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
DEEPSEEK_V3 = LATENT | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "n_group": 1,
    "topk_group": 1,
}
QWEN3_5 = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
FOLDERS: dict[str, dict[str, Any]] = {
    "cohere": {"architectures": ["CohereForCausalLM"], "model_type": "cohere"},
    "cohere2": {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2"},
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"},
    "gemma3_text": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
    "glm": {"architectures": ["GlmForCausalLM"], "model_type": "glm", "head_dim": 16},
    "glm4": {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "head_dim": 16},
    "glm4_moe": GLM4_MOE,
    "granite": {"architectures": ["GraniteForCausalLM"], "model_type": "granite"},
    "llama": {},
    "ministral3": {
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "head_dim": 16,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
    },
    "mixtral": MIXTRAL,
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"},
    "olmo3": {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen2_moe": QWEN2_MOE,
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16},
    "qwen3_5_text": QWEN3_5,
    "qwen3_moe": QWEN3_MOE,
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"},
    "starcoder2": {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2"},
}
# megatron-core lays a class of its own over delayed scaling, to keep wgrad in bf16 if asked.
EXPECTED: dict[str, dict[str, Any]] = {
    "delayed": {"kinds": "DelayedScaling", "format": "HYBRID"},
    "tensorwise": {"kinds": "Float8CurrentScaling", "format": "HYBRID"},
    "blockwise": {"kinds": "Float8BlockScaling", "format": "E4M3"},
    "mxfp8": {"kinds": "MXFP8BlockScaling", "format": "E4M3"},
    "nvfp4": {"kinds": "NVFP4BlockScaling", "format": "E2M1"},
}
EXPERTS = ("deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "qwen2_moe", "qwen3_moe")
NORMS_APART = ("cohere", "cohere2", "deepseek_v2", "deepseek_v3", "olmo2", "olmo3")
"""Of those the first layer has norms that no linear layer begins with, or none."""
PAIRS = [(family, recipe) for family in FOLDERS for recipe in EXPECTED]


def require_engine() -> None:
    done = run_python("-c", "import transformer_engine.pytorch")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it ends without a word"])[-1]
        pytest.skip(f"Transformer Engine cannot be imported: {reason}")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, which is made to believe that it has a GPU."""
    require_engine()
    work = tmp_path_factory.mktemp("te_precision")
    for name, changes in FOLDERS.items():
        write_model_folder(work / "models" / name, **changes)
    run_on_ranks("tests.model.te_recipes:describe_all", work, world=1, cases=None, timeout_s=900.0)
    built: dict[str, Any] = json.loads((work / "found.json").read_text())
    return built


def test_every_family_is_here() -> None:
    assert FOLDERS.keys() == FAMILIES.keys()


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_the_engine_is_given_the_recipe(found: dict[str, Any], family: str, recipe: str) -> None:
    given, expected = found[f"{family} {recipe}"]["recipe"], EXPECTED[recipe]
    assert expected["kinds"] in given["kinds"]
    assert given["format"] == expected["format"]
    if recipe == "delayed":
        assert (given["amax_history_len"], given["amax_compute_algo"]) == (1024, "max")
        assert (given["margin"], given["reduce_amax"]) == (0, True)


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_first_and_last_layers_stay_in_bf16(
    found: dict[str, Any], family: str, recipe: str
) -> None:
    """One of each, but with delayed scaling, which cannot leave any out."""
    inner = [True] * (NUM_LAYERS - 2)
    expected = [True, *inner, True] if recipe == "delayed" else [False, *inner, False]
    assert found[f"{family} {recipe}"]["quantised"] == expected


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_layers_are_the_engines_own(found: dict[str, Any], family: str, recipe: str) -> None:
    layers = set(found[f"{family} {recipe}"]["layers"])
    is_apart = family in NORMS_APART
    first = "TEColumnParallelLinear" if is_apart else "TELayerNormColumnParallelLinear"
    assert {first, "TERowParallelLinear"} <= layers
    assert ("TEGroupedMLP" in layers) == (family in EXPERTS)


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_checkpoints_have_the_keys_and_shapes_of_the_cpus(
    found: dict[str, Any], family: str, recipe: str
) -> None:
    """Tensors are the same; the engine's layers have a state of their own besides."""

    def tensors(keys: dict[str, Any]) -> dict[str, Any]:
        return {key: shape for key, shape in keys.items() if shape is not None}

    built = found[f"{family} {recipe}"]
    assert tensors(built["keys"]) == tensors(built["plain_keys"])
    states = {key for key in built["keys"] if "_extra_state" in key}
    assert any(".self_attention." in key for key in states)


@pytest.mark.parametrize("family", FOLDERS)
def test_weights_pass_to_the_engine_and_back(found: dict[str, Any], family: str) -> None:
    """Through checkpoints in files, bit for bit."""
    assert found[f"{family} delayed"]["round_trip"] is True


def test_an_engine_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """Without its CUDA libraries it is installed, and of no use."""
    require_engine()
    code = (
        "from megacpt.device import fp8\n"
        "version, fault = fp8.engine_version()\n"
        "assert version\n"
        "print(fault or '')\n"
    )
    done = run_python("-c", code, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    if not done.stdout.strip():
        pytest.skip("this build of torch brings the libraries along")
    assert "Error" in done.stdout


def test_reference_quantisers_give_the_same_bits(tmp_path: Path) -> None:
    """Current scaling, scales of blocks and NVFP4, of 40 matrices."""
    require_engine()
    run_on_ranks("tests.model.te_quantisers:compare", tmp_path, world=1, cases=None)
    results: dict[str, dict[str, bool]] = json.loads((tmp_path / "oracle.json").read_text())
    wrong = [f"{case}: {name}" for case in results for name, ok in results[case].items() if not ok]
    assert len(results) == 40
    assert wrong == []
