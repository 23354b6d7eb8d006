# SPDX-License-Identifier: Apache-2.0
"""Products of bf16 as they are made where torch has no kernel of its own for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megacpt.device.cpu import bf16_products

pytestmark = pytest.mark.skipif(
    not hasattr(torch.library, "get_kernel"), reason="this torch lends no kernel to others"
)
X, Y = (torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
X, Y = X.bfloat16(), Y.bfloat16()


@pytest.fixture
def replaced() -> Iterator[None]:
    """On any CPU; what it had before is there again after."""
    if not bf16_products.has_own():
        # A rank in this process may have kept them, under which these would lie.
        bf16_products._kept.cache_clear()
    library = bf16_products.registered()
    yield
    library._destroy()  # type: ignore[attr-defined]


def rounded(wide: torch.Tensor) -> torch.Tensor:
    return wide.to(torch.bfloat16)


@pytest.mark.usefixtures("replaced")
def test_each_form_is_the_fp32_product_rounded_once() -> None:
    x, y, bias = X[0], Y[0], X[1]
    assert torch.equal(x @ y, rounded(x.float() @ y.float()))
    assert torch.equal(torch.bmm(X, Y), rounded(torch.bmm(X.float(), Y.float())))
    expected = rounded(torch.addmm(bias.float(), x.float(), y.float(), beta=0.5, alpha=2))
    assert torch.equal(torch.addmm(bias, x, y, beta=0.5, alpha=2), expected)
    assert torch.equal(bias.clone().addmm_(x, y, beta=0.5, alpha=2), expected)
    out = torch.empty_like(bias)
    assert torch.addmm(bias, x, y, beta=0.5, alpha=2, out=out) is out
    assert torch.equal(out, expected)
    sums = rounded(torch.baddbmm(Y.float(), X.float(), Y.float(), alpha=3))
    assert torch.equal(torch.baddbmm(Y, X, Y, alpha=3), sums)
    assert torch.equal(Y.clone().baddbmm_(X, Y, alpha=3), sums)
    assert torch.equal(torch.bmm(X, Y, out=torch.empty_like(X)), rounded(X.float() @ Y.float()))
    assert torch.equal(torch.mm(x, y, out=torch.empty_like(x)), rounded(x.float() @ y.float()))


@pytest.mark.usefixtures("replaced")
def test_layers_and_gradients_go_that_way() -> None:
    x, weight = X[0].clone().requires_grad_(), Y[0].clone().requires_grad_()
    y = torch.nn.functional.linear(x, weight)
    y.backward(X[1])
    assert torch.equal(y, rounded(X[0].float() @ Y[0].float().T))
    assert x.grad is not None
    assert weight.grad is not None
    assert torch.equal(x.grad, rounded(X[1].float() @ Y[0].float()))
    assert torch.equal(weight.grad, rounded(X[1].float().T @ X[0].float()))


@pytest.mark.usefixtures("replaced")
def test_other_types_are_left_alone() -> None:
    x, y = X[0].double(), Y[0].double()
    assert torch.allclose(x @ y, (x[:, :, None] * y[None]).sum(1), rtol=1e-12)
    wide = X[0].float() @ Y[0].float()
    assert wide.dtype is torch.float32
    assert torch.allclose(wide.double(), x @ y, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("name", ["x", "y", "bias", "out"])
def test_types_that_do_not_go_together_are_refused(name: str) -> None:
    given = {"x": X[0], "y": Y[0], "bias": X[1], "out": torch.empty_like(X[0])}
    given[name] = given[name].float()
    with pytest.raises(RuntimeError, match="type"):
        torch.addmm(given["bias"], given["x"], given["y"], out=given["out"])


@pytest.mark.usefixtures("replaced")
def test_an_empty_result_is_made_as_large_as_it_has_to_be() -> None:
    out = torch.mm(X[0, :3], Y[0], out=torch.empty(0, dtype=torch.bfloat16))
    assert torch.equal(out, rounded(X[0, :3].float() @ Y[0].float()))


def test_a_cpu_with_a_kernel_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16_products, "has_own", lambda: True)
    monkeypatch.setattr(bf16_products, "_kept", lambda: pytest.fail("it was replaced"))
    bf16_products.install()
