# SPDX-License-Identifier: Apache-2.0
"""What Qwen adds to Llama is computed: a model without it is another one, on CPUs and on GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import (
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
)
from tests.llama_cases import TOKENS_BS
from tests.model.on_one_rank import loaded
from tests.qwen_cases import CASES, GRANITE, write_qwen

pytestmark = pytest.mark.mcore

LOGITS_ATOL = 2e-5


def logits_of(folder: Path, change: Callable[[Any], None] | None = None) -> torch.Tensor:
    """``change``: to the layers, after the weights are loaded."""
    model, _ = loaded(folder)
    for layer in model.decoder.layers:
        if change is not None:
            change(layer.self_attention)
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS_BS, positions_BS, None)
    return logits


def without_biases(attention: Any) -> None:
    attention.linear_qkv.bias.data.zero_()


def without_norms(attention: Any) -> None:
    attention.q_layernorm = attention.k_layernorm = torch.nn.Identity()


def without_scales(attention: Any) -> None:
    attention.q_layernorm.weight.data.fill_(1.0)
    attention.k_layernorm.weight.data.fill_(1.0)


def with_norms_swapped(attention: Any) -> None:
    attention.q_layernorm, attention.k_layernorm = attention.k_layernorm, attention.q_layernorm


@pytest.mark.parametrize(
    ("case", "ablations"),
    [
        ("qwen2", [without_biases]),
        ("qwen2-tied", [without_biases]),
        ("qwen3", [without_norms, without_scales, with_norms_swapped]),
        ("qwen3-tied", [without_norms, without_scales, with_norms_swapped]),
    ],
)
def test_the_model_is_that_of_transformers_and_one_without_its_own_is_not(
    case: str, ablations: list[Callable[[Any], None]], tmp_path: Path, one_rank: None
) -> None:
    reference = write_qwen(tmp_path, **CASES[case])
    with torch.no_grad():
        expected = reference(TOKENS_BS).logits
    assert float((logits_of(tmp_path) - expected).abs().max()) < LOGITS_ATOL
    for ablation in ablations:
        found = logits_of(tmp_path, ablation)
        # Nowhere near the tolerance: a mistake of this kind cannot pass for rounding.
        assert float((found - expected).abs().max()) > 1000 * LOGITS_ATOL, ablation


@pytest.mark.parametrize("multiplier", GRANITE)
def test_another_multiplier_is_another_model(
    multiplier: str, tmp_path: Path, one_rank: None
) -> None:
    reference = write_qwen(tmp_path, **CASES["granite"])
    with torch.no_grad():
        expected = reference(TOKENS_BS).logits
    assert float((logits_of(tmp_path) - expected).abs().max()) < LOGITS_ATOL
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps(stated | {multiplier: 1.0}))
    assert float((logits_of(tmp_path) - expected).abs().max()) > 1000 * LOGITS_ATOL


def test_positions_in_other_layers_are_another_model(tmp_path: Path, one_rank: None) -> None:
    reference = write_qwen(tmp_path, **CASES["smollm3-tied"])
    with torch.no_grad():
        expected = reference(TOKENS_BS).logits
    assert float((logits_of(tmp_path) - expected).abs().max()) < LOGITS_ATOL
    file = tmp_path / "config.json"
    stated = json.loads(file.read_text())
    for layers in ([1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]):
        file.write_text(json.dumps(stated | {"no_rope_layers": layers}))
        assert float((logits_of(tmp_path) - expected).abs().max()) > 1000 * LOGITS_ATOL, layers


@pytest.mark.parametrize("case", CASES)
def test_transformer_engine_is_asked_for_the_same(
    case: str, tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformer Engine's norm for query and key, biases by megatron-core's own switch."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    from megacpt.families import read_architecture
    from megacpt.model import layer_spec as module
    from megacpt.model.config import transformer_config

    write_qwen(tmp_path, **CASES[case])
    architecture = read_architecture(tmp_path)
    config = transformer_config(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kernels=KernelsConfig(),
        kind=DeviceKind.cpu,
    )
    assert (config.add_qkv_bias, config.add_bias_linear) == (architecture.qkv_bias, False)
    assert config.qk_layernorm is architecture.qk_norm
    asked: dict[str, Any] = {}

    def specification(**arguments: Any) -> Any:
        asked.update(arguments)
        return get_gpt_layer_local_spec()

    monkeypatch.setattr(module, "HAVE_TE", True)
    monkeypatch.setattr(module, "get_gpt_layer_with_transformer_engine_spec", specification)
    layer = module.layer_spec(architecture, config=config, kind=DeviceKind.gpu, layer=0)
    assert asked["qk_layernorm"] is architecture.qk_norm
    plain = get_gpt_layer_local_spec().submodules.self_attention.submodules
    attention = layer.submodules.self_attention.submodules
    assert attention.linear_qkv is plain.linear_qkv
    assert attention.linear_proj is plain.linear_proj
