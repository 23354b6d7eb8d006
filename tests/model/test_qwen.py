# SPDX-License-Identifier: Apache-2.0
"""What Qwen and others add to Llama is asked of Transformer Engine, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import (
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
)
from tests.qwen_cases import CASES, write_qwen

pytestmark = pytest.mark.mcore


@pytest.mark.parametrize("case", CASES)
def test_transformer_engine_is_asked_for_the_same(
    case: str, tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformer Engine's norm for query and key, biases by megatron-core's own switch."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    from megacpt.families import read_architecture
    from megacpt.model import layer_spec as module
    from megacpt.model.config import transformer_config
    from megacpt.model.layers import modules

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

    monkeypatch.setattr(modules, "HAVE_TE", True)
    monkeypatch.setattr(module, "get_gpt_layer_with_transformer_engine_spec", specification)
    layer = module.layer_spec(architecture, config=config, kind=DeviceKind.gpu, layer=0)
    assert asked["qk_layernorm"] is architecture.qk_norm
    plain = get_gpt_layer_local_spec().submodules.self_attention.submodules
    attention = layer.submodules.self_attention.submodules
    assert attention.linear_qkv is plain.linear_qkv
    assert attention.linear_proj is plain.linear_proj
