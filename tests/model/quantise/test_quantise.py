# SPDX-License-Identifier: Apache-2.0
"""The emulated recipes equal, bit for bit, twins in NumPy that were written from the papers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.model.quantise import blocks, numbers
from megacpt.model.quantise.product import multiply, transposed
from megacpt.model.quantise.recipes import (
    Blockwise,
    Microscaling,
    NvFp4,
    Pass,
    Quantiser,
    Tensorwise,
    hadamard,
    rotated,
)
from tests.model.quantise import twins

FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
RECIPES: dict[str, Quantiser] = {
    "tensorwise": Tensorwise(forward=numbers.E4M3, backward=numbers.E5M2),
    "blockwise": Blockwise(forward=numbers.E4M3, backward=numbers.E4M3),
    "mxfp8": Microscaling(forward=numbers.E4M3, backward=numbers.E4M3),
    "nvfp4": NvFp4(),
}


def matrix(kind: str, *, rows: int = 96, columns: int = 160, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    if kind == "wide":
        x *= np.exp(4 * rng.standard_normal(x.shape)).astype(np.float32)
    if kind == "sparse":
        x[:, columns // 2 :] = 0
    if kind == "powers":
        x = np.exp2(rng.integers(-20, 20, x.shape)).astype(np.float32)
    if kind == "tiny":
        x *= np.float32(1e-38)
    return x


MATRICES = ["normal", "wide", "sparse", "powers", "tiny"]
LINES = [(1, 128), (128, 1), (128, 128)]


def bits(array: Any) -> np.ndarray:
    """As bytes, whether it is PyTorch's or NumPy's."""
    if isinstance(array, torch.Tensor):
        return array.contiguous().view(torch.uint8).numpy()
    return np.ascontiguousarray(array).view(np.uint8)


@pytest.mark.parametrize("block", LINES, ids=str)
@pytest.mark.parametrize("kind", MATRICES[:-1])
@pytest.mark.parametrize("format_", FORMATS)
def test_blocks_equal_the_twin(kind: str, format_: str, block: tuple[int, int]) -> None:
    x = matrix(kind)
    codes, scales = twins.blockwise(x, block=block, kind=format_)
    found = blocks.power_of_two_blocks(torch.from_numpy(x), block=block, dtype=FORMATS[format_])
    np.testing.assert_array_equal(bits(found.codes), bits(codes))
    np.testing.assert_array_equal(bits(found.scales), bits(scales))


@pytest.mark.parametrize("block", [(1, 32), (32, 1)], ids=str)
@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("format_", FORMATS)
def test_microscaling_equals_the_twin(kind: str, format_: str, block: tuple[int, int]) -> None:
    x = matrix(kind)
    codes, scales = twins.microscaled(x, block=block, kind=format_)
    found = blocks.mx_blocks(torch.from_numpy(x), block=block, dtype=FORMATS[format_])
    np.testing.assert_array_equal(bits(found.scales), bits(scales))
    np.testing.assert_array_equal(bits(found.codes), bits(codes))


@pytest.mark.parametrize("block", [(1, 16), (16, 1), (16, 16)], ids=str)
@pytest.mark.parametrize("kind", MATRICES[:-1])
def test_nvfp4_equals_the_twin(kind: str, block: tuple[int, int]) -> None:
    x = matrix(kind)
    values, scales, amax = twins.nvfp4(x, block=block)
    found = blocks.nvfp4_blocks(torch.from_numpy(x), block=block)
    np.testing.assert_array_equal(bits(found.scales), bits(scales))
    np.testing.assert_array_equal(found.codes.numpy(), values.astype(np.float32))
    assert found.amax is not None
    assert found.amax.item() == amax


@given(st.floats(0, float(np.finfo(np.float32).max), width=32))
@settings(max_examples=300, deadline=None)
def test_scale_exponents_are_the_power_of_two_not_below(value: float) -> None:
    exponent = int(numbers.to_e8m0(torch.tensor([value]))[0])
    scale = 2.0 ** (exponent - 127)
    assert scale >= value or exponent == 254
    assert exponent == 0 or scale / 2 < value


def test_every_scale_and_its_reciprocal() -> None:
    exponents = torch.arange(255, dtype=torch.uint8)
    expected = 2.0 ** (np.arange(255, dtype=np.float64) - 127)
    np.testing.assert_array_equal(numbers.e8m0_value(exponents).numpy(), expected)
    np.testing.assert_array_equal(numbers.e8m0_reciprocal(exponents).numpy(), 1 / expected)
    assert numbers.e8m0_value(torch.tensor([255], dtype=torch.uint8)).isnan().all()


def test_four_bit_values_are_rounded_as_ml_dtypes_does() -> None:
    x = np.linspace(-8, 8, 4097, dtype=np.float32)
    expected = np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(numbers.to_e2m1(torch.from_numpy(x)).numpy(), expected)


def test_stochastic_rounding_takes_a_neighbour_and_is_right_on_average() -> None:
    torch.manual_seed(1)
    x = torch.linspace(-6, 6, 241).repeat(4000, 1)
    found = numbers.to_e2m1_stochastically(x)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    assert torch.isin(found.abs(), grid).all()
    gap = torch.where(x.abs() < 2, 0.5, torch.where(x.abs() < 4, 1.0, 2.0))
    assert ((found - x).abs() < gap).all()
    # The mean of 4000 draws: five standard errors of a coin's spread between two neighbours.
    assert ((found - x).mean(dim=0).abs() <= 5 * gap[0] / 2 / 4000**0.5).all()


def test_what_is_not_a_number_stays_visible() -> None:
    """A saturating cast would turn an infinite activation into 448 and hide a fault."""
    for bad in (torch.inf, torch.nan):
        for name, recipe in RECIPES.items():
            x = torch.ones(32, 32)
            x[3, 5] = bad
            operands = recipe.activation(x, during=Pass.training)
            values = operands.by_rows.values.float() * operands.by_rows.factor
            assert values[3].isnan().any(), (name, bad)


@pytest.mark.parametrize("name", RECIPES)
def test_operands_stand_for_what_was_quantised(name: str) -> None:
    """Both directions, weights and gradients too, within the format's coarsest step."""
    x = torch.from_numpy(matrix("normal", rows=64, columns=96))
    recipe, step = RECIPES[name], {"nvfp4": 1 / 4, "tensorwise": 1 / 8}.get(name, 1 / 16)
    for operands in (
        recipe.activation(x, during=Pass.training),
        recipe.weight(x, during=Pass.training),
        recipe.gradient(x),
    ):
        assert operands.by_columns is not None
        rotates = name == "nvfp4" and operands.by_columns is not operands.by_rows
        for operand, expected in (
            (operands.by_rows, x),
            (operands.by_columns, rotated(x) if rotates else x),
        ):
            values = operand.values.float() * operand.factor
            # Stochastic rounding goes as far as the whole step.
            assert (values - expected).norm() < 1.5 * step * expected.norm()
            assert (values - expected).abs().max() <= 4 * step * expected.abs().max()


def test_rotation_is_orthogonal_and_leaves_the_product() -> None:
    identity = hadamard(dtype=torch.float32) @ hadamard(dtype=torch.float32).t()
    torch.testing.assert_close(identity, torch.eye(16))
    dy, x = torch.randn(50, 24), torch.randn(50, 40)
    torch.testing.assert_close(rotated(dy).t() @ rotated(x), dy.t() @ x)


def test_a_product_is_rounded_once() -> None:
    """Scales that are no powers of two are applied before the rounding to bf16."""
    torch.manual_seed(0)
    a = blocks.Operand(values=torch.randn(32, 64).to(numbers.E4M3).bfloat16(), factor=0.0123)
    b = blocks.Operand(values=torch.randn(48, 64).to(numbers.E4M3).bfloat16(), factor=0.456)
    exact = a.values.double() @ b.values.double().t() * (a.factor * b.factor)
    found = multiply(a, b=transposed(b), dtype=torch.bfloat16)
    wrong = (found != exact.to(torch.bfloat16)).float().mean()
    assert wrong < 0.005, "sums in float32 may tip a tie, no more"


def test_an_evaluation_pass_makes_no_operands_for_gradients() -> None:
    x = torch.randn(32, 32)
    assert RECIPES["mxfp8"].activation(x, during=Pass.evaluation).by_columns is None
    assert RECIPES["nvfp4"].activation(x, during=Pass.rehearsal).by_columns is None


@pytest.mark.mcore
def test_what_is_added_in_place_does_not_touch_the_gradients() -> None:
    """As megatron-core adds the biases of experts."""
    from megacpt.device.cpu import import_hook

    import_hook.install()
    from megacpt.model.quantise.linear import QuantisedProduct

    gradients = []
    for in_place in (False, True):
        torch.manual_seed(0)
        x_BTI, w_OI = (
            torch.randn(shape).bfloat16().requires_grad_() for shape in ((2, 4, 8), (6, 8))
        )
        product = QuantisedProduct(Tensorwise(forward=numbers.E4M3, backward=numbers.E5M2))
        y = product(x_BTI, w_OI=w_OI, training=True)
        y = y.add_(1.0) if in_place else y + 1.0
        y.square().sum().backward()
        gradients.append((x_BTI.grad, w_OI.grad))
    for apart, added in zip(*gradients, strict=True):
        assert torch.equal(apart, added)
