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

    Shapes: R rows, G blocks of a row, B bytes of a block.
    """
    numbers_RGN = _pairs()[bytes_RGB.int()].flatten(-2)
    exponents_RG = scales_RG.int() - _BIAS
    return torch.ldexp(numbers_RGN, exponents_RG.unsqueeze(-1), out=numbers_RGN).flatten(-2)


@lru_cache(maxsize=1)
def _pairs() -> torch.Tensor:
    """Both numbers of each byte."""
    numbers = torch.tensor([*_SIZES, *(-size for size in _SIZES)], dtype=torch.bfloat16)
    codes = torch.arange(256)
    return torch.stack([numbers[codes % 16], numbers[codes // 16]], dim=1)
