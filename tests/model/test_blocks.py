# SPDX-License-Identifier: Apache-2.0
"""Any run of a parameter's elements is a few rectangles of the tensors a checkpoint has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]


@settings(deadline=None)  # The first example imports megatron-core.
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_rectangles_are_the_elements_in_their_order(data: st.DataObject, shape: list[int]) -> None:
    from megacpt.model.blocks import rectangles

    elements = np.arange(np.prod(shape)).reshape(shape)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, elements.size)] * 2)))
    found = list(rectangles(shape, start=start, end=end))
    parts = [
        elements[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))].ravel()
        for offset, size in found
    ]
    assert [int(n) for part in parts for n in part] == list(range(start, end))
    assert len(found) <= 2 * len(shape) - 1


def test_whole_rows_are_one() -> None:
    from megacpt.model.blocks import rectangles

    assert list(rectangles((4, 3), start=3, end=9)) == [((1, 0), (2, 3))]
    assert list(rectangles((4, 3), start=2, end=10)) == [
        ((0, 2), (1, 1)),
        ((1, 0), (2, 3)),
        ((3, 0), (1, 1)),
    ]
    assert list(rectangles((4, 3), start=5, end=5)) == []


def test_blocks_of_gate_and_up_look_into_the_elements() -> None:
    import torch
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    from megacpt.model.blocks import Rows, place_elements

    def block(key: str) -> ShardedTensor:
        """The second of three layers' weights, of two rows and three columns."""
        return ShardedTensor.from_rank_offsets(
            key, torch.empty(2, 3), (0, 1, 3), prepend_axis_num=1, replica_id=(0, 0, 5)
        ).without_data()

    rows = (Rows(first=0, block=block("gate")), Rows(first=6, block=block("up")))
    values = torch.arange(2.0, 11.0)
    found = place_elements(values, first=2, rows=rows, prefix="exp_avg.")
    assert [(b.key, b.global_offset, b.local_shape) for b in found] == [
        ("exp_avg.gate", (1, 0, 2), (1, 1, 1)),
        ("exp_avg.gate", (1, 1, 0), (1, 1, 3)),
        ("exp_avg.up", (1, 0, 0), (1, 1, 3)),
        ("exp_avg.up", (1, 1, 0), (1, 1, 2)),
    ]
    assert [b.data.flatten().tolist() for b in found] == [[2], [3, 4, 5], [6, 7, 8], [9, 10]]
    found[2].data.zero_()
    assert values.tolist() == [2, 3, 4, 5, 0, 0, 0, 9, 10]
    assert {b.replica_id for b in found} == {(0, 0, 0)}
