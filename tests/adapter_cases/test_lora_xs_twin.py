# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapter_cases.experts import unstack
from tests.adapter_cases.lora_xs_twin import factors_of, lora_xs_twin, random_start, targeted
from tests.adapter_cases.models import TARGETS, models
from tests.adapter_cases.training import AdamW, drawn_batches, load_base, mean_loss
from tests.family_cases import VOCAB_SIZE

RANK = 4
BATCHES = drawn_batches(3, vocab_size=VOCAB_SIZE)
OPTIM = AdamW(lr_by_step=[1e-2] * 3)
ALPHA = 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-xs")
    models()["llama-tied"].write(folder)
    return folder


def trained(folder: Path, **changes: Any) -> Any:
    start = random_start(folder, rank=RANK, targets=TARGETS)
    given = {"start": start, "batches": BATCHES, "optim": OPTIM, "targets": TARGETS, "alpha": ALPHA}
    return lora_xs_twin(folder, rank=RANK, **(given | changes))


def test_factors_are_a_singular_decomposition_with_signs() -> None:
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(2))
    whole = factors_of(weight, rank=12)
    torch.testing.assert_close(whole.a @ whole.b, weight.T, rtol=1e-4, atol=1e-5)
    few = factors_of(weight, rank=RANK)
    values = torch.linalg.svdvals(weight)[:RANK]
    torch.testing.assert_close(few.a.norm(dim=0), values, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(few.b @ few.b.T, torch.eye(RANK), rtol=0.0, atol=1e-5)
    assert (few.a.gather(0, few.a.abs().argmax(dim=0, keepdim=True)) > 0).all()
    # Whatever signs the weight's own decomposition came with.
    turned = factors_of(-weight, rank=RANK)
    torch.testing.assert_close(turned.a, few.a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.b, -few.b, rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_merged_weights(folder: Path) -> None:
    twin, merged = trained(folder), load_base(folder)
    for name, linear in targeted(merged, targets=TARGETS).items():
        factors = factors_of(linear.weight, rank=RANK)
        change = factors.a @ twin.tensors[name] @ factors.b
        linear.weight.data += ALPHA / RANK * change.T
    tokens_BS = BATCHES[0].tokens_BS
    expected = merged(tokens_BS).logits.detach()
    torch.testing.assert_close(twin.logits_BSV(tokens_BS), expected, rtol=0.0, atol=2e-5)
    base = load_base(folder)(tokens_BS).logits.detach()
    assert float((base - expected).abs().max()) > 0.1


def test_gradients_are_projections_of_the_weights_own(folder: Path) -> None:
    """By the chain rule, at R of zeros: dR = alpha / rank A^T dW B^T."""
    base = load_base(folder)
    mean_loss(base, batch=BATCHES[0]).backward()
    start = random_start(folder, rank=RANK, targets=TARGETS, std=0.0)
    found = trained(folder, start=start)
    for name, linear in targeted(base, targets=TARGETS).items():
        factors = factors_of(linear.weight, rank=RANK)
        expected = ALPHA / RANK * factors.a.T @ linear.weight.grad.T @ factors.b.T
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(found.gradients[name], expected, rtol=1e-4, atol=atol)
        assert not torch.allclose(found.gradients[name].T, expected, rtol=1e-2)


def test_the_base_stays_and_the_loss_falls(folder: Path) -> None:
    twin = trained(folder, batches=BATCHES[:1] * 3)
    assert twin.losses[2] < twin.losses[0]
    for name, parameter in load_base(folder).named_parameters():
        assert torch.equal(twin.model.get_parameter(name), parameter), name


def test_it_trains_experts_by_themselves(tmp_path: Path) -> None:
    models()["qwen3-moe"].write(tmp_path)
    start = random_start(tmp_path, rank=RANK, targets=TARGETS, prepare=unstack)
    twin = trained(tmp_path, start=start, prepare=unstack)
    name = "model.layers.1.mlp.experts.0.up_proj"
    assert float(twin.gradients[name].abs().max()) > 0.0
    assert not torch.equal(twin.tensors[name], twin.start[name])
