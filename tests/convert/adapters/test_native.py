# SPDX-License-Identifier: Apache-2.0
"""A run begins with the adapter that PEFT has written, or says in what it is another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import AdapterConfig, AdapterMethod
from megacpt.errors import ConfigError
from megacpt.families import read_architecture
from megacpt.families.targets import with_adapter
from tests.convert.adapters.support import drawn_adapter
from tests.convert.adapters.test_folder import ATOL, TOKENS_BS, far, logits_of, write_base
from tests.convert.adapters.test_read import write_peft_s_own

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]

SETTINGS: dict[str, Any] = {"rank": 3, "alpha": 5.0, "targets": "q_proj,down_proj"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor]:
    """Model, PEFT's folder, and what PEFT computes of both."""
    folder = tmp_path_factory.mktemp("written")
    base = write_base("llama-tied-gqa", folder=folder / "base")
    model = write_peft_s_own(
        folder / "peft",
        base=base,
        target_modules=["q_proj", "down_proj"],
        modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
        use_dora=True,
    )
    return base, folder / "peft", logits_of(model)


def test_logits_are_peft_s(written: tuple[Path, Path, torch.Tensor], one_rank: None) -> None:
    from megacpt.convert.adapters.native import begin_with, native_model
    from megacpt.convert.certificate import native_logits

    base, peft, expected = written
    source = drawn_adapter(base, method="dora", train_embedding=True, **SETTINGS)
    chunks = native_model(source)

    def logits() -> torch.Tensor:
        return native_logits(chunks[0].eval(), tokens_BS=TOKENS_BS)[..., :131]

    assert far(logits(), expected) > 0.05
    begin_with(chunks, folder=peft, base=base, architecture=source.architecture)
    assert far(logits(), expected) < ATOL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, r"has rank=3; use adapter.rank=3"),
        ({"alpha": 6.0}, r"has alpha=5.0; use adapter.alpha=5.0"),
        ({"method": AdapterMethod.lora}, r"has method=dora"),
        ({"rank_stabilised": True}, r"has rank_stabilised=false; use"),
        ({"targets": "q_proj"}, r"adapts model.layers.0.mlp.down_proj.weight"),
        ({"targets": "all-linear"}, r"does not adapt model.layers.0.mlp.gate_proj.weight"),
        ({"layers": "1-3"}, r"adapts model.layers.0.mlp.down_proj"),
        (
            {"train_embedding": False},
            r"whole embedding.*; use adapter.train_embedding=true",
        ),
    ],
)
def test_another_adapter_is_refused(
    written: tuple[Path, Path, torch.Tensor], changes: dict[str, Any], message: str
) -> None:
    from megacpt.convert.adapters.native import begin_with

    base, peft, _ = written
    settings = AdapterConfig(method=AdapterMethod.dora, train_embedding=True, **SETTINGS)
    wanted = with_adapter(read_architecture(base), settings=replace(settings, **changes))
    with pytest.raises(ConfigError, match=rf"adapter.load_from={peft}.*{message}"):
        begin_with([], folder=peft, base=base, architecture=wanted)
