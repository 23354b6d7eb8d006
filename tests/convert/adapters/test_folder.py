# SPDX-License-Identifier: Apache-2.0
"""PEFT computes of a written folder what the native model computes of the adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from tests.convert.adapters.support import drawn_adapter
from tests.family_cases import Case, cases
from tests.multimodal_cases import write_parts

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]

TOKENS_BS = torch.randint(6, 131, (2, 40), generator=torch.Generator().manual_seed(7))
ATOL = 3e-5
BESIDE = {"train_embedding": True, "train_head": True}
RUNS: dict[str, dict[str, Any]] = {
    "llama-tied-gqa": {"train_embedding": True},
    "llama-plain": {"method": "pissa", "rank_stabilised": True, **BESIDE},
    "norms-gemma3": {"method": "dora", "targets": "q_proj,down_proj", "layers": "1-2"},
    "ropes-longrope-of-a-part": {"method": "pissa"},
    "varied-phi3-0": {"method": "dora"},
    "ropes-glm4": {"method": "lora_xs"},
    "routed-qwen3-moe-first-dense": {"rank_stabilised": True},
    "varied-qwen2_moe-0": {"targets": "up_proj,v_proj"},
    "gpt_oss-windows": {},
    "llama4-scout": {"method": "pissa"},
    "deepseek-v2": {"method": "lora_xs"},
    "stacked-granite": {},
    "mixtures-top2-of-4": {"targets": "w2"},
}
PARTS: dict[str, dict[str, Any]] = {
    "gemma3": {"method": "dora", "train_embedding": True},
    "qwen2_5_vl-tied": {"train_embedding": True},
    "llama4": {"train_head": True},
    "qwen3_5_moe": {},
}


def write_base(name: str, *, folder: Path) -> Path:
    known: dict[str, Case] = cases()
    if name in known:
        known[name].write(folder)
    else:
        write_parts(folder, case=name)
    return folder


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS_BS).logits
    return found


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


FAST = (
    "llama-tied-gqa",
    "llama-plain",
    "norms-gemma3",
    "varied-phi3-0",
    "gpt_oss-windows",
    "gemma3",
)
"""The others, all in all ten seconds, are slow."""


def dealt(names: Iterable[str]) -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", dealt([*RUNS, *PARTS]))
def test_peft_computes_the_same(name: str, tmp_path: Path, one_rank: None) -> None:
    from megacpt.convert.adapters.export import load_peft, write_peft
    from megacpt.convert.adapters.native import native_model
    from megacpt.convert.certificate import native_logits

    base = write_base(name, folder=tmp_path / "base")
    source = drawn_adapter(base, **(RUNS | PARTS)[name])
    (tmp_path / "peft").mkdir()
    write_peft(source, folder=tmp_path / "peft", base_model=str(base))
    model = load_peft(tmp_path / "peft", device=torch.device("cpu"), base=base)
    (native,) = native_model(source)
    expected = native_logits(native.eval(), tokens_BS=TOKENS_BS)[..., :131]
    assert far(logits_of(model), expected) < ATOL
    with model.disable_adapter():
        assert far(logits_of(model), expected) > 0.05


def test_every_factor_counts(tmp_path: Path) -> None:
    """One that is left out is one that PEFT only warns of."""
    from megacpt.convert.adapters.export import load_peft, write_peft

    base = write_base("llama-plain", folder=tmp_path / "base")
    (tmp_path / "peft").mkdir()
    write_peft(drawn_adapter(base), folder=tmp_path / "peft", base_model=str(base))
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"
    for others in (
        {k: v for k, v in tensors.items() if k != key},
        {**tensors, key.replace("up_proj", "side_proj"): tensors[key].clone()},
    ):
        save_file(others, file)
        with pytest.raises(ModelError, match=r"layers\.2\.mlp\.(up|side)_proj\.lora_B\.weight"):
            load_peft(tmp_path / "peft", device=torch.device("cpu"), base=base)


def settings_of(base: Path, **settings: Any) -> dict[str, Any]:
    from megacpt.convert.adapters.folder import folder_settings
    from megacpt.convert.adapters.live import live_model
    from megacpt.convert.adapters.plain import plain_lora

    source = plain_lora(drawn_adapter(base, **settings))
    live = live_model(base, architecture=source.architecture)
    return json.loads(json.dumps(folder_settings(source, live=live, base_model=None)))


def test_names_are_short_where_nothing_else_has_them(tmp_path: Path) -> None:
    base = write_base("llama-plain", folder=tmp_path / "base")
    found = settings_of(base, targets="q_proj,mlp.up_proj")
    assert (found["target_modules"], found["modules_to_save"]) == (["q_proj", "up_proj"], None)
    assert "target_parameters" not in found
    some = settings_of(base, targets="q_proj", layers="1,3")
    assert some["target_modules"] == [f"model.layers.{n}.self_attn.q_proj" for n in (1, 3)]


def test_a_sum_of_ranks_keeps_the_scale(tmp_path: Path) -> None:
    base = write_base("routed-qwen3-moe-first-dense", folder=tmp_path / "base")
    found = settings_of(base, rank=4, alpha=8.0)
    assert found["rank_pattern"] == {"experts.gate_up_proj": 8}
    assert found["alpha_pattern"] == {"experts.gate_up_proj": 16}
    found = settings_of(base, rank=4, alpha=8.0, rank_stabilised=True)
    assert found["alpha_pattern"]["experts.gate_up_proj"] == pytest.approx(8 * 2**0.5)


def test_dora_of_experts_is_refused(tmp_path: Path) -> None:
    base = write_base("routed-qwen3-moe-first-dense", folder=tmp_path / "base")
    with pytest.raises(ModelError, match=r"PEFT has no DoRA on parameters.*megacpt merge"):
        settings_of(base, method="dora")


def test_a_module_that_transformers_has_not_is_refused(tmp_path: Path) -> None:
    from megacpt.convert.adapters.live import live_model
    from megacpt.convert.adapters.places import places

    base = write_base("llama-plain", folder=tmp_path / "base")
    architecture = drawn_adapter(base).architecture
    live = live_model(base, architecture=architecture)
    shapes = {name: shape for name, shape in live.shapes.items() if "layers.3.mlp.up" not in name}
    with pytest.raises(ModelError, match=r"no model\.layers\.3\.mlp\.up_proj of shape \[72, 48\]"):
        places(architecture, live=replace(live, shapes=shapes))
