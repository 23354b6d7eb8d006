# SPDX-License-Identifier: Apache-2.0
"""Frozen weights in fewer bits: which are packed, in what form, and what that takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from megacpt.config.sections import BaseWeights
from megacpt.families.architecture import Architecture
from megacpt.families.weights import Param, Role

NF4_BLOCK = 64
"""Values that share a scale (QLoRA, https://arxiv.org/abs/2305.14314, section 3)."""
SCALE_BYTES = 4


PACKAGES: Mapping[BaseWeights, Mapping[str, tuple[int, int]]] = {
    BaseWeights.nf4: {"bitsandbytes": (0, 50)},
    BaseWeights.int8: {},
}
"""Oldest version of each that does."""


def is_packed(row: Param) -> bool:
    """Matrices of layers that tensor parallelism cuts. Tables, routers, norms, biases and the small
    matrices that all ranks hold whole stay as they are."""
    return row.role is Role.linear and row.per_layer and row.tp_dim is not None


def row_length(row: Param, *, architecture: Architecture, ranks: int) -> float:
    """Values of a matrix's row on one of the ``ranks`` that it is cut over."""
    width = row.sources[0].shape(architecture)[1]
    return width / ranks if row.tp_dim == 1 else width


def packed_bytes(
    row: Param,
    *,
    architecture: Architecture,
    packing: BaseWeights,
    layers: Collection[int] | None = None,
) -> int:
    """Of ``row`` in ``layers`` (default: all) with all its experts, over all ranks, which hold
    equal parts; the scales of an int8 matrix that is cut along its rows lie on each of them."""
    values = row.num_values(architecture, layers=layers)
    if packing is BaseWeights.nf4:
        return values // 2 + values // NF4_BLOCK * SCALE_BYTES
    width = row.sources[0].shape(architecture)[1]
    return values + values // width * SCALE_BYTES
