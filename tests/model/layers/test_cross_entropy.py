# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients of the fused output layer against torch's own, in float64.

Several ranks: the parity tests of layouts train through it with a padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from megacpt.model.layers import cross_entropy as fused
from megacpt.model.layers.cross_entropy import linear_cross_entropy

TOKENS, HIDDEN, VOCABULARY = 50, 24, 133
Tensors = tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def group() -> Iterator[dist.ProcessGroup]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def inputs(dtype: torch.dtype, *, scale: float = 1.0) -> Tensors:
    """Hidden states, weights, labels, and weights of the losses, some of them zero."""
    torch.manual_seed(0)
    hidden_TD = (scale * torch.randn(TOKENS, HIDDEN)).to(dtype)
    weight_VD = torch.randn(VOCABULARY, HIDDEN).to(dtype)
    labels_T = torch.randint(0, VOCABULARY, (TOKENS,))
    loss_weights_T = (torch.rand(TOKENS) > 0.3).float()
    return hidden_TD, weight_VD, labels_T, loss_weights_T


def run_fused(
    tensors: Tensors, group: dist.ProcessGroup, *, factor: float = 1.0, cap: float | None = None
) -> Tensors:
    hidden_TD, weight_VD, labels_T, loss_weights_T = tensors
    hidden_TD, weight_VD = (x.clone().requires_grad_() for x in (hidden_TD, weight_VD))
    losses_T = linear_cross_entropy(
        hidden_TD,
        weight_VD=weight_VD,
        labels_T=labels_T,
        loss_weights_T=loss_weights_T,
        vocab_size=VOCABULARY,
        group=group,
        cap=cap,
    )
    (losses_T * loss_weights_T).sum().mul(factor).backward()
    assert hidden_TD.grad is not None
    assert weight_VD.grad is not None
    return losses_T.detach(), hidden_TD.grad, weight_VD.grad


def run_exactly(tensors: Tensors, *, factor: float = 1.0, cap: float | None = None) -> Tensors:
    hidden_TD, weight_VD, labels_T, loss_weights_T = tensors
    hidden_TD, weight_VD = (x.double().requires_grad_() for x in (hidden_TD, weight_VD))
    logits_TV = hidden_TD @ weight_VD.t()
    if cap is not None:
        logits_TV = cap * torch.tanh(logits_TV / cap)
    losses_T = cross_entropy(logits_TV, labels_T, reduction="none")
    (losses_T * loss_weights_T).sum().mul(factor).backward()
    assert hidden_TD.grad is not None
    assert weight_VD.grad is not None
    return losses_T.detach(), hidden_TD.grad, weight_VD.grad


@pytest.mark.parametrize("chunk_rows", [1, 7, 50, 1000])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_fp32(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, factor: float
) -> None:
    monkeypatch.setattr(fused, "CHUNK_BYTES", chunk_rows * VOCABULARY * 4)
    monkeypatch.setattr(fused, "TILE_BYTES", 3 * VOCABULARY * 4)
    tensors = inputs(torch.float32)
    for found, exact in zip(
        run_fused(tensors, group, factor=factor), run_exactly(tensors, factor=factor), strict=True
    ):
        # Sums of a hundred float32 terms of size one.
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_bounded_logits(
    group: dist.ProcessGroup,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """As Gemma 2 bounds them, to a size that most of them pass."""
    monkeypatch.setattr(fused, "CHUNK_BYTES", 7 * VOCABULARY * 4)
    monkeypatch.setattr(fused, "TILE_BYTES", 3 * VOCABULARY * 4)
    tensors = inputs(dtype)
    results = run_fused(tensors, group, cap=3.0), run_exactly(tensors, cap=3.0)
    for found, exact in zip(*results, strict=True):
        assert (found.double() - exact).norm() <= tolerance * exact.norm()
    unbounded = run_exactly(tensors)
    for found, other in zip(results[0], unbounded, strict=True):
        assert (found.double() - other).norm() > 0.1 * other.norm()


def test_bf16_is_as_near_as_plain_layers(group: dist.ProcessGroup) -> None:
    """The same roundings: logits and their gradient to bf16, products accumulated in float32."""
    tensors = inputs(torch.bfloat16)
    hidden_TD, weight_VD, labels_T, loss_weights_T = tensors
    hidden_TD, weight_VD = (x.clone().requires_grad_() for x in (hidden_TD, weight_VD))
    plain_T = cross_entropy((hidden_TD @ weight_VD.t()).float(), labels_T, reduction="none")
    (plain_T * loss_weights_T).sum().backward()
    assert hidden_TD.grad is not None
    assert weight_VD.grad is not None
    plain = (plain_T.detach(), hidden_TD.grad, weight_VD.grad)
    for found, other, exact in zip(
        run_fused(tensors, group), plain, run_exactly(tensors), strict=True
    ):
        error = (found.double() - exact).norm() / exact.norm()
        assert error <= 1.5 * (other.double() - exact).norm() / exact.norm() + 1e-6
        assert error < 1e-2


def test_a_token_that_is_almost_sure_keeps_its_gradient(group: dist.ProcessGroup) -> None:
    """softmax - 1 near zero must not be the difference of two rounded numbers."""
    hidden_TD = torch.eye(2, dtype=torch.bfloat16)
    weight_VD = torch.tensor([[6.0, 0.0], [0.0, 6.0]], dtype=torch.bfloat16)
    labels_T, weights_T = torch.tensor([0, 1]), torch.ones(2)
    hidden_TD.requires_grad_()
    losses_T = linear_cross_entropy(
        hidden_TD,
        weight_VD=weight_VD.requires_grad_(),
        labels_T=labels_T,
        loss_weights_T=weights_T,
        vocab_size=2,
        group=group,
    )
    losses_T.sum().backward()
    one_minus_p = 1 / (1 + torch.exp(torch.tensor(6.0)))
    expected = torch.eye(2) * -6 * one_minus_p + (1 - torch.eye(2)) * 6 * one_minus_p
    assert hidden_TD.grad is not None
    torch.testing.assert_close(hidden_TD.grad.float(), expected, rtol=2**-7, atol=0)


def test_large_logits_stay_finite(group: dist.ProcessGroup) -> None:
    tensors = inputs(torch.float32, scale=1e4)
    for found, exact in zip(run_fused(tensors, group), run_exactly(tensors), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-2)


def test_padding_takes_no_part(group: dist.ProcessGroup) -> None:
    hidden_TD, weight_VD, labels_T, loss_weights_T = inputs(torch.float32)
    padded_VD = torch.cat([weight_VD, 100 * torch.ones(11, HIDDEN)])
    losses, _, d_weight_VD = run_fused((hidden_TD, padded_VD, labels_T, loss_weights_T), group)
    expected, _, _ = run_fused((hidden_TD, weight_VD, labels_T, loss_weights_T), group)
    assert torch.equal(losses, expected)
    assert not d_weight_VD[VOCABULARY:].any()


def test_other_weights_are_refused(group: dist.ProcessGroup) -> None:
    hidden_TD, weight_VD, labels_T, loss_weights_T = inputs(torch.float32)
    losses_T = linear_cross_entropy(
        hidden_TD.requires_grad_(),
        weight_VD=weight_VD,
        labels_T=labels_T,
        loss_weights_T=loss_weights_T,
        vocab_size=VOCABULARY,
        group=group,
    )
    with pytest.raises(ValueError, match="weighed otherwise"):
        losses_T.sum().backward()


def counted_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One longer with each matrix product from here on."""
    products: list[int] = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (products.append(1), multiply(*a, **k))[1])
    return products


def test_measuring_makes_no_gradients(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out losses cost one product of the output layer, not three."""
    hidden_TD, weight_VD, labels_T, loss_weights_T = inputs(torch.float32)
    products = counted_products(monkeypatch)

    def losses() -> torch.Tensor:
        return linear_cross_entropy(
            hidden_TD.requires_grad_(),
            weight_VD=torch.nn.Parameter(weight_VD),
            labels_T=labels_T,
            loss_weights_T=loss_weights_T,
            vocab_size=VOCABULARY,
            group=group,
        )

    with torch.no_grad():
        measured_T = losses()
    assert len(products) == 1
    assert torch.equal(measured_T, losses().detach())
    assert len(products) == 4


def test_all_masked(group: dist.ProcessGroup) -> None:
    hidden_TD, weight_VD, labels_T, _ = inputs(torch.float32)
    tensors = (hidden_TD, weight_VD, labels_T, torch.zeros(TOKENS))
    losses_T, d_hidden_TD, d_weight_VD = run_fused(tensors, group)
    assert losses_T.isfinite().all()
    assert not d_hidden_TD.any()
    assert not d_weight_VD.any()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_costs_no_product(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, frozen: str
) -> None:
    for name in ("CHUNK_BYTES", "FROZEN_CHUNK_BYTES"):
        monkeypatch.setattr(fused, name, 10 * VOCABULARY * 4)
    tensors = inputs(torch.float32)
    hidden_TD, weight_VD, labels_T, loss_weights_T = tensors
    trained = weight_VD if frozen == "hidden" else hidden_TD
    trained.requires_grad_()
    products = counted_products(monkeypatch)
    losses_T = linear_cross_entropy(
        hidden_TD,
        weight_VD=weight_VD,
        labels_T=labels_T,
        loss_weights_T=loss_weights_T,
        vocab_size=VOCABULARY,
        group=group,
    )
    (losses_T * loss_weights_T).sum().backward()
    assert len(products) == 2 * TOKENS / 10
    expected_T, d_hidden_TD, d_weight_VD = run_exactly(tuple(x.detach() for x in tensors))
    torch.testing.assert_close(losses_T.double(), expected_T, atol=1e-4, rtol=1e-5)
    assert trained.grad is not None
    expected = d_weight_VD if frozen == "hidden" else d_hidden_TD
    torch.testing.assert_close(trained.grad.double(), expected, atol=1e-4, rtol=1e-5)
    assert (hidden_TD if frozen == "hidden" else weight_VD).grad is None
