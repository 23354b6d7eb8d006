# SPDX-License-Identifier: Apache-2.0
"""On HybridModel a model is the one on GPTModel, bit for bit, and is saved as that is."""

from __future__ import annotations

import json
from importlib.metadata import files
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
from tests.family_cases import cases
from tests.model.case_outputs import TOKENS_BS
from tests.model.core.both_outputs import LAYOUTS, own_cases
from tests.model.on_one_rank import loaded
from tests.run_on_ranks import run_on_ranks

OFFERED = any(path.match("models/hybrid/hybrid_model.py") for path in files("megatron-core") or ())
pytestmark = [
    pytest.mark.mcore,
    pytest.mark.skipif(not OFFERED, reason="this megatron-core has no HybridModel"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    for name, case in own_cases().items():
        case.write(folder / "models" / name)
    for world in (1, 2):
        layouts = [name for name, layout in LAYOUTS.items() if layout.ranks == world]
        run_on_ranks(
            "tests.model.core.both_outputs:write_differences", folder, world=world, cases=layouts
        )
    return folder


@pytest.mark.parametrize("case", own_cases())
def test_every_bit_is_that_of_gpt_model(case: str, work: Path) -> None:
    """Logits, losses, gradients, random weights and what a checkpoint is to hold."""
    found = {path.stem: json.loads(path.read_text()) for path in work.glob(f"*-{case}-?.json")}
    for name, same in found.items():
        assert "checkpoint" in same
        assert [what for what, is_same in same.items() if not is_same] == [], name
    with_losses = {name for name, same in found.items() if "losses" in same}
    assert {name.split(f"-{case}-")[0] for name in with_losses} == taken(work, case=case)


def taken(work: Path, *, case: str) -> set[str]:
    """The layouts that the case's rules allow."""
    return {path.stem.removesuffix(f"-{case}-0") for path in work.glob(f"*-{case}-0.json")}


def test_no_layout_is_left_out(work: Path) -> None:
    assert taken(work, case="llama") == set(LAYOUTS) - {"ep2", "pp2-vpp2"}
    assert {"ep2", "pp2-vpp2"} <= taken(work, case="qwen3-moe")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({}, "******"),
        ({"pp": 2}, "***|***"),
        ({"pp": 2, "first_stage_layers": 2}, "**|****"),
        ({"pp": 3, "last_stage_layers": 4}, "*|*|****"),
        ({"pp": 2, "vpp": 3}, "*|*|*|*|*|*"),
        ({"pp": 2, "vpp": 2, "first_stage_layers": 4}, "**|*|**|*"),
    ],
)
def test_the_pattern_says_which_layers_a_stage_has(
    fields: dict[str, int], pattern: str, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.families import read_architecture
    from megacpt.model.config import transformer_config
    from megacpt.model.core.hybrid import layer_pattern

    own_cases()["llama"].write(tmp_path)
    config = transformer_config(
        read_architecture(tmp_path),
        parallel=ParallelConfig(**fields),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kernels=KernelsConfig(),
        kind=DeviceKind.cpu,
    )
    assert layer_pattern(config) == pattern


def logits(model: Any) -> torch.Tensor:
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS_BS, positions_BS, None)
    return found


def test_hybrid_model_s_own_angles_are_others_where_pairs_turn(
    tmp_path: Path, one_rank: None
) -> None:
    """It does not read ``rotary_interleaved``; GPTModel does."""
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

    expected_BSV = cases()["ropes-glm4"].write(tmp_path)(TOKENS_BS).logits
    model, _ = loaded(tmp_path)
    torch.testing.assert_close(logits(model)[..., :131], expected_BSV, atol=2e-5, rtol=0.0)
    model.rotary_pos_emb.rotary_interleaved = False
    RotaryEmbedding.forward.cache_clear()
    assert float((logits(model)[..., :131] - expected_BSV).abs().max()) > 1e-2


def test_hybrid_model_s_own_checkpoint_has_a_tensor_for_each_layer(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron.core.models.hybrid.hybrid_block import HybridStack

    from megacpt.model.blocks import blocks_of
    from megacpt.model.core.hybrid import Stack

    def keys() -> set[str]:
        rows = blocks_of(model).of_params.values()
        return {row.block.key for of_param in rows for row in of_param}

    own_cases()["llama"].write(tmp_path)
    model, _ = loaded(tmp_path)
    assert "decoder.layers.mlp.linear_fc2.weight" in keys()
    monkeypatch.setattr(Stack, "sharded_state_dict", HybridStack.sharded_state_dict)
    assert "decoder.layers.5.mlp.linear_fc2.weight" in keys()
