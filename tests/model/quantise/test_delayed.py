# SPDX-License-Identifier: Apache-2.0
"""Delayed scaling: its history follows the twin's, and each pass leaves the trace it should."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.quantise import twins

if TYPE_CHECKING:
    from megacpt.model.quantise.delayed import DelayedScaling

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]

LARGEST = float(np.finfo(np.float32).max)
AMAXES = st.one_of(
    st.sampled_from([0.0, math.inf, math.nan, 1e-45, 1e-39, 448.0, 1.0]),
    st.floats(0, LARGEST, width=32),
)


def delayed(length: int = 3) -> DelayedScaling:
    from megacpt.model.quantise.delayed import DelayedScaling

    return DelayedScaling(
        forward=torch.float8_e4m3fn, backward=torch.float8_e5m2, history_length=length
    )


@given(st.lists(AMAXES, max_size=12), st.integers(1, 5))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_scales_follow_the_twin(amaxes: list[float], length: int) -> None:
    from megacpt.model.quantise.delayed import Matrix

    found = delayed(length)
    forward = twins.Delayed(kind="e4m3", length=length)
    backward = twins.Delayed(kind="e5m2", length=length)
    for amax in amaxes:
        for matrix, twin in ((Matrix.weight, forward), (Matrix.gradient, backward)):
            found.update(matrix, amax=torch.tensor(amax))
            assert found.scale_Q[matrix].item() == np.float32(twin.enter(amax))


def test_codes_are_those_of_the_last_passes_scale() -> None:
    from megacpt.model.quantise.delayed import Matrix
    from megacpt.model.quantise.recipes import Pass

    layer, x = delayed(), torch.tensor([[3.0, -500.0], [0.01, 1.0]])
    first = layer.activation(x, during=Pass.training).by_rows
    # The first pass has a scale of 1, and cuts what is above the largest number.
    assert first.values[0].tolist() == [3.0, -448.0]
    assert first.factor == 1.0
    layer.update(Matrix.activation, amax=layer.pending_Q[Matrix.activation])
    second = layer.activation(x, during=Pass.training).by_rows
    assert second.values[0, 1].item() == -448.0
    assert second.factor == pytest.approx(500 / 448, rel=1e-6)


def test_an_evaluation_leaves_no_trace() -> None:
    from megacpt.model.quantise.recipes import Pass

    layer = delayed()
    before = layer.state()
    layer.activation(torch.ones(4, 4), during=Pass.evaluation)
    layer.weight(torch.ones(4, 4), during=Pass.evaluation)
    assert layer.pending_Q.tolist() == [0.0, 0.0, 0.0]
    assert all(torch.equal(before[name], value) for name, value in layer.state().items())


def test_what_is_recomputed_has_its_first_scale_and_is_counted_once() -> None:
    from megacpt.model.quantise.delayed import Matrix
    from megacpt.model.quantise.recipes import Pass

    layer, x = delayed(), torch.full((4, 4), 100.0)
    first = layer.activation(x, during=Pass.rehearsal).by_rows
    layer.weight(x, during=Pass.rehearsal)
    layer.update(Matrix.activation, amax=layer.pending_Q[Matrix.activation])
    layer.pending_Q.zero_()
    again = layer.activation(x, during=Pass.training).by_rows
    assert again.factor == first.factor == 1.0
    assert layer.pending_Q.tolist() == [0.0, 0.0, 0.0]
    assert layer.activation(x, during=Pass.training).by_rows.factor != 1.0


@pytest.mark.parametrize("length", [2, 4, 7])
def test_a_state_goes_into_a_history_of_any_length(length: int) -> None:
    from megacpt.model.quantise.delayed import Matrix

    layer, other = delayed(4), delayed(length)
    for amax in (1.0, 2.0, 3.0, 4.0):
        layer.update(Matrix.weight, amax=torch.tensor(amax))
    other.load(layer.state())
    newest = [4.0, 3.0, 2.0, 1.0][:length]
    assert other.amax_history_LQ[: len(newest), Matrix.weight].tolist() == newest
    assert torch.equal(other.scale_Q, layer.scale_Q)


def test_a_ledger_enters_forward_passes_at_their_end_and_backward_ones_before_the_next() -> None:
    from megacpt.model.quantise.delayed import AmaxLedger
    from megacpt.model.quantise.linear import QuantisedProduct

    class Block(torch.nn.Module):
        def __init__(self, layer: DelayedScaling) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((16, 16), 2.0))
            self.product = QuantisedProduct(layer)

        def forward(self, x: Any) -> Any:
            return self.product(x, w_OI=self.weight, training=self.training)

    layer = delayed()
    block, ledger = Block(layer), AmaxLedger([layer])
    ledger.watch(block)
    block(torch.full((8, 16), 5.0, requires_grad=True)).sum().backward()
    assert layer.amax_history_LQ[0].tolist() == [5.0, 2.0, 0.0]
    assert layer.pending_Q.tolist() == [0.0, 0.0, 1.0]
    (3 * block(torch.full((8, 16), 4.0, requires_grad=True)).sum()).backward()
    assert layer.amax_history_LQ[:2].tolist() == [[4.0, 2.0, 1.0], [5.0, 2.0, 0.0]]
    ledger.close()
    assert layer.amax_history_LQ[:2, 2].tolist() == [3.0, 1.0]
    block.eval()
    with torch.no_grad():
        block(torch.full((8, 16), 9.0))
    ledger.close()
    assert layer.amax_history_LQ[0].tolist() == [4.0, 2.0, 3.0]
