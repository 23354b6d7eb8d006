# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapter_cases.experts import unstack
from tests.adapter_cases.models import ATTENTION, MLP, TARGETS, models
from tests.adapter_cases.peft_twin import peft_model, random_start, saved_tensors, set_tensors
from tests.adapter_cases.stacked import Pair, stacked_keys, stacked_pair
from tests.adapter_cases.training import drawn_batches, load_base
from tests.family_cases import VOCAB_SIZE, cases

RANK, ALPHA, EXPERTS = 4, 6.0, 6
STACKED = "mlp.experts.gate_up_proj"
TOKENS_BS = drawn_batches(1, vocab_size=VOCAB_SIZE)[0].tokens_BS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first layer is dense."""
    folder = tmp_path_factory.mktemp("stacked")
    models()["qwen3-moe"].write(folder)
    return folder


def by_module(**changes: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), **changes)


def by_parameter(*, alpha: float = 2 * ALPHA, **changes: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(ATTENTION),
        target_parameters=[STACKED, "mlp.experts.down_proj", *(f"mlp.{m}.weight" for m in MLP)],
        rank_pattern={STACKED: 2 * RANK},
        alpha_pattern={STACKED: alpha},
        **changes,
    )


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS_BS).logits
    return found


@pytest.fixture(scope="module")
def start(folder: Path) -> dict[str, torch.Tensor]:
    return random_start(folder, config=by_module(), prepare=unstack)


def of_modules(folder: Path, *, start: Any, **changes: Any) -> torch.Tensor:
    model = peft_model(folder, config=by_module(**changes), prepare=unstack)
    set_tensors(model, tensors=start)
    return logits(model)


def of_parameters(folder: Path, *, tensors: Any, **changes: Any) -> torch.Tensor:
    model = peft_model(folder, config=by_parameter(**changes))
    set_tensors(model, tensors=tensors)
    return logits(model)


def farthest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


def test_stacked_tensors_are_the_same_model(folder: Path, start: Any) -> None:
    tensors = stacked_keys(start, experts=EXPERTS)
    expected = of_modules(folder, start=start)
    assert farthest(of_parameters(folder, tensors=tensors), expected) < 2e-5
    assert farthest(logits(load_base(folder)), expected) > 0.1
    # Expert after expert in B too, as A has it.
    for key, tensor in tensors.items():
        if ".experts." in key and "lora_B" in key:
            swapped = tensor.view(len(tensor), -1, EXPERTS).transpose(1, 2).flatten(1)
            tensors[key] = swapped.contiguous()
    assert farthest(of_parameters(folder, tensors=tensors), expected) > 0.1


def test_with_rslora_the_scale_of_gate_and_up_is_another(folder: Path, start: Any) -> None:
    tensors = stacked_keys(start, experts=EXPERTS)
    expected = of_modules(folder, start=start, use_rslora=True)
    changed = {"use_rslora": True, "alpha": math.sqrt(2.0) * ALPHA}
    assert farthest(of_parameters(folder, tensors=tensors, **changed), expected) < 2e-5
    assert farthest(of_parameters(folder, tensors=tensors, use_rslora=True), expected) > 0.1


def test_peft_stacks_names_of_transformers_4_alike(folder: Path, start: Any) -> None:
    from peft.utils.transformers_weight_conversion import (
        convert_peft_adapter_state_dict_for_transformers,
    )

    found = convert_peft_adapter_state_dict_for_transformers(
        load_base(folder), by_module(), dict(start)
    )
    expected = stacked_keys(start, experts=EXPERTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_peft_adapts_no_dense_layer_of_a_mixture_by_the_names_of_modules(
    folder: Path, start: Any
) -> None:
    """What an exporter has to get round."""
    keys = saved_tensors(peft_model(folder, config=by_module())).keys()
    lost = stacked_keys(start, experts=EXPERTS).keys() - keys
    assert lost == {key for key in start if ".layers.0.mlp." in key}
    whole = saved_tensors(peft_model(folder, config=by_parameter())).keys()
    assert whole == stacked_keys(start, experts=EXPERTS).keys()


@pytest.mark.parametrize(
    ("case", "marked"), [("gpt_oss-windows", True), ("llama4-scout", False)], ids=str
)
def test_transposed_experts_are_stacked_as_they_are_marked(case: str, marked: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(cases()[case].config(), attn_implementation="eager")
    config = LoraConfig(r=3, target_modules=[], target_parameters=["experts.gate_up_proj"])
    model = get_peft_model(base, config)
    wrapper = next(m for m in model.modules() if hasattr(m, "get_delta_factors"))
    experts, size_in, size_out = wrapper.get_param().shape
    pairs = [Pair(a=torch.randn(3, size_in), b=torch.randn(size_out, 3)) for _ in range(experts)]
    given = pairs if marked else [Pair(a=pair.b.T, b=pair.a.T) for pair in pairs]
    stacked = stacked_pair([[pair] for pair in given])
    assert wrapper.lora_A["default"].weight.shape == stacked.a.shape
    wrapper.lora_A["default"].weight.data.copy_(stacked.a)
    wrapper.lora_B["default"].weight.data.copy_(stacked.b)
    expected = wrapper.scaling["default"] * torch.stack([(pair.b @ pair.a).T for pair in pairs])
    torch.testing.assert_close(wrapper.get_delta_weight("default"), expected)
