# SPDX-License-Identifier: Apache-2.0
"""Taken out of a merged model is the adapter that was put in, or the nearest of its rank."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import AdapterConfig
from megacpt.convert.sources import SourceModel, hugging_face
from megacpt.errors import ModelError
from megacpt.families import read_architecture
from tests.convert.adapters.support import RANK, drawn_adapter
from tests.convert.adapters.test_folder import ATOL, far, logits_of, write_base
from tests.convert.support import held_in_memory

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]


def of_folder(base: Path) -> SourceModel:
    return hugging_face(base, architecture=read_architecture(base))


@pytest.mark.parametrize(
    "name", ["llama-tied-gqa", "ropes-longrope-of-a-part", "routed-qwen3-moe-first-dense"]
)
def test_an_adapter_comes_back(name: str, tmp_path: Path) -> None:
    from megacpt.convert.adapters.export import load_peft, write_extracted, write_peft
    from megacpt.convert.adapters.extract import extract
    from megacpt.convert.opened import beside_base

    base = write_base(name, folder=tmp_path / "base")
    source = drawn_adapter(base, train_embedding=True)
    (tmp_path / "peft").mkdir()
    write_peft(source, folder=tmp_path / "peft", base_model=str(base))
    found = extract(
        beside_base(source),
        base=of_folder(base),
        settings=AdapterConfig(rank=RANK, alpha=float(RANK), train_embedding=True),
    )
    assert found.error < 1e-6
    assert not found.others
    write_extracted(found, output=tmp_path / "out", base_model=str(base))
    said = json.loads((tmp_path / "out" / "extract.json").read_text())
    assert said["modules"].keys() == {module.module for module in found.modules}
    logits = [
        logits_of(load_peft(tmp_path / folder, device=torch.device("cpu"), base=base))
        for folder in ("peft", "out")
    ]
    assert far(*logits) < ATOL


def test_of_less_rank_the_rest_is_what_the_singular_values_leave(tmp_path: Path) -> None:
    """By another library, from the tensors themselves; what else has changed is named."""
    import numpy as np

    from megacpt.convert.adapters.extract import extract

    base = of_folder(write_base("llama-tied-gqa", folder=tmp_path / "base"))
    generator = torch.Generator().manual_seed(3)
    changed: dict[str, Any] = {
        name: held_in_memory(t.whole() + torch.randn(t.shape, generator=generator))
        for name, t in base.tensors.items()
    }
    found = extract(
        replace(base, tensors=changed),
        base=base,
        settings=AdapterConfig(rank=2, alpha=2.0, targets="up_proj"),
    )
    assert [module.module for module in found.modules] == [
        f"model.layers.{n}.mlp.up_proj" for n in range(4)
    ]
    name = "model.layers.1.mlp.up_proj.weight"
    difference = (changed[name].whole() - base.tensors[name].whole()).numpy()
    values = np.linalg.svd(difference, compute_uv=False)
    expected = np.sqrt((values[2:] ** 2).sum() / (values**2).sum())
    assert found.modules[1].error == pytest.approx(expected, rel=1e-5)
    held = {f"{module.module}.weight" for module in found.modules}
    assert found.others.keys() == base.tensors.keys() - held


def test_models_of_two_sizes_are_refused(tmp_path: Path) -> None:
    from megacpt.convert.adapters.extract import extract

    a, b = (
        of_folder(write_base(name, folder=tmp_path / name))
        for name in ("llama-tied-gqa", "llama-plain")
    )
    with pytest.raises(ModelError, match="not of one architecture"):
        extract(a, base=b, settings=AdapterConfig())


def test_nothing_that_has_changed_is_no_adapter(tmp_path: Path) -> None:
    """Whoever names the base model twice would get one of zeros."""
    from megacpt.convert.adapters.extract import extract

    base = of_folder(write_base("llama-plain", folder=tmp_path / "base"))
    with pytest.raises(ModelError, match="have the same weights in all modules asked for"):
        extract(base, base=base, settings=AdapterConfig())
