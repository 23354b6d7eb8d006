# SPDX-License-Identifier: Apache-2.0
"""Weights in numbers of four bits (OCP Microscaling Formats v1.0), as the published folders of
gpt-oss hold those of experts. Free of torch.

X_blocks has in place of each row of X, outputs before inputs, 16 bytes for every 32 numbers, one in
the low half before one in the high half; X_scales has the exponent of two of the 32, plus 127.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from megacpt.families.weights import Part

TYPE = "U8"
"""Of both, as safetensors writes it."""
NUMBERS, BYTES = 32, 16
"""Of a block."""


def in_four_bits(part: Part) -> Iterator[Part]:
    """Where the same lies in such a folder; nowhere, if it is no matrix of an expert."""
    if part.index is not None and part.transposed:
        experts, inputs, outputs = part.shape
        yield replace(
            part,
            name=f"{part.name}_blocks",
            scales=f"{part.name}_scales",
            shape=(experts, outputs, inputs),
            transposed=False,
        )


def stored_shapes(part: Part) -> Mapping[str, tuple[int, ...]]:
    """Of the tensors that hold a part, by name."""
    if part.scales is None:
        return {part.name: part.shape}
    *rows, inputs = part.shape
    blocks = (*rows, inputs // NUMBERS)
    return {part.name: (*blocks, BYTES), part.scales: blocks}
