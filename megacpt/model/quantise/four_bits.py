# SPDX-License-Identifier: Apache-2.0
"""Weights stored as MXFP4, made into those that transformers makes of them, bit for bit."""

from __future__ import annotations

from functools import lru_cache

import torch

_SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the codes 0 to 7; 8 to 15 are the same below zero."""
_BIAS = 127


def decoded(bytes_RGB: torch.Tensor, *, scales_RG: torch.Tensor) -> torch.Tensor:
    """In bfloat16, which holds every such number but the largest of the largest scales.

    Shapes: R rows, G blocks of a row, B bytes of a block, N numbers of it.
    """
    pairs, *powers = _tables()
    found = pairs.index_select(0, bytes_RGB.flatten().int())
    numbers_RGN = found.view(torch.bfloat16).view(*scales_RG.shape, -1)
    scales_RG = scales_RG.int()
    for power in powers:
        numbers_RGN.mul_(power[scales_RG].unsqueeze(-1))
    return numbers_RGN.flatten(-2)


@lru_cache(maxsize=1)
def _tables() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two numbers of each byte, as one of 32 bits, which is found faster; and the power of two
    of each scale as a product of two, since the largest is beyond bfloat16 and its numbers are not.
    """
    numbers = torch.tensor([*_SIZES, *(-size for size in _SIZES)], dtype=torch.bfloat16)
    codes = torch.arange(256)
    pairs = torch.stack([numbers[codes % 16], numbers[codes // 16]], dim=1)
    exponents = codes - _BIAS
    halves = exponents // 2
    first, second = (torch.ldexp(torch.ones(256), n) for n in (halves, exponents - halves))
    return pairs.view(torch.int32).flatten(), first.bfloat16(), second.bfloat16()
