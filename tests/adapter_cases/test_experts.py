# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.adapter_cases.experts import unstack
from tests.adapter_cases.models import models
from tests.adapter_cases.training import drawn_batches, load_base, mean_loss
from tests.family_cases import VOCAB_SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    models()["qwen3-moe"].write(folder)
    return folder


def test_modules_compute_what_stacked_experts_do(folder: Path) -> None:
    (batch,) = drawn_batches(1, vocab_size=VOCAB_SIZE)
    stacked, unstacked = load_base(folder), load_base(folder)
    unstack(unstacked)
    expected, found = mean_loss(stacked, batch=batch), mean_loss(unstacked, batch=batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    expected.backward()
    found.backward()
    whole = stacked.model.layers[1].mlp.experts
    for number, expert in enumerate(unstacked.model.layers[1].mlp.experts):
        gate, up = whole.gate_up_proj.grad[number].chunk(2)
        down = whole.down_proj.grad[number]
        for part, gradient in {"gate": gate, "up": up, "down": down}.items():
            own = getattr(expert, f"{part}_proj").weight.grad
            torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-6)


def test_names_are_those_of_transformers_4(folder: Path) -> None:
    model = load_base(folder)
    unstack(model)
    names = {name for name, _ in model.named_modules() if name.startswith("model.layers.1.mlp.")}
    assert {f"model.layers.1.mlp.experts.5.{part}_proj" for part in ("gate", "up", "down")} <= names
    assert hasattr(model.model.layers[0].mlp, "gate_proj")
