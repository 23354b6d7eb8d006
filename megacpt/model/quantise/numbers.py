# SPDX-License-Identifier: Apache-2.0
"""Small numbers: eight-bit E4M3 and E5M2 (arXiv 2209.05433), E2M1 and the scale type E8M0 (OCP
Microscaling Formats v1.0, sections 5.3.3 and 5.4.1).

PyTorch has the eight-bit types. E2M1 values are held in float32: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and
their negatives.
"""

from __future__ import annotations

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
E2M1_MAX = 6.0
_MANTISSA_BITS = 23
_EXPONENT_MASK = 0x7F800000
_E8M0_NAN = 255


def largest(dtype: torch.dtype) -> float:
    """448 for E4M3, 57344 for E5M2."""
    return torch.finfo(dtype).max


def to_fp8(scaled: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Round float32 values to nearest even; what is too large becomes the largest, as on GPUs."""
    limit = largest(dtype)
    return scaled.clamp(-limit, limit).to(dtype)


def to_e2m1(scaled: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest E2M1 value, ties to the even code."""
    clipped = scaled.clamp(-E2M1_MAX, E2M1_MAX)
    step = _e2m1_step(clipped)
    return torch.round(clipped / step).mul_(step)


def to_e2m1_stochastically(scaled: torch.Tensor) -> torch.Tensor:
    """Round to one of the two neighbours, with a probability that makes the mean the value itself.

    Draws from torch's own generator, whose state is in every checkpoint.
    """
    clipped = scaled.clamp(-E2M1_MAX, E2M1_MAX)
    step = _e2m1_step(clipped)
    steps_up = torch.floor((clipped.abs() / step).add_(torch.rand_like(clipped)))
    return torch.copysign(steps_up.mul_(step), clipped)


def _e2m1_step(clipped: torch.Tensor) -> torch.Tensor:
    """Distance between neighbours: 0.5 up to 2, 1 up to 4, then 2."""
    size = clipped.abs()
    return 0.5 + 0.5 * (size >= 2.0) + (size >= 4.0)


def power_of_two_below(positive: torch.Tensor) -> torch.Tensor:
    """The largest power of two that is not above each normal float32 value."""
    return (positive.view(torch.int32) & (0xFF800000 - (1 << 32))).view(torch.float32)


def to_e8m0(positive: torch.Tensor) -> torch.Tensor:
    """Biased exponent (uint8) of the smallest power of two that is not below each float32 value.

    Zero gives the smallest, 2^-127; what is not finite gives 255, E8M0's NaN.
    """
    bits = positive.view(torch.int32)
    exponent, mantissa = bits >> _MANTISSA_BITS, bits & 0x7FFFFF
    # Below 2^-126 the mantissa has no leading one: half of it is 2^-127.
    above = torch.where(exponent == 0, mantissa > 0x400000, mantissa > 0)
    rounded = exponent + (above & (exponent != 254))
    return torch.where(torch.isfinite(positive), rounded, _E8M0_NAN).to(torch.uint8)


def e8m0_value(exponent: torch.Tensor) -> torch.Tensor:
    """2^(exponent - 127) in float32; NaN for 255."""
    bits = exponent.to(torch.int32) << _MANTISSA_BITS
    bits = torch.where(exponent == 0, 1 << (_MANTISSA_BITS - 1), bits)
    return torch.where(exponent == _E8M0_NAN, torch.nan, bits.view(torch.float32))


def e8m0_reciprocal(exponent: torch.Tensor) -> torch.Tensor:
    """2^(127 - exponent) in float32; NaN for 255."""
    return e8m0_value(torch.where(exponent == _E8M0_NAN, exponent, 254 - exponent))
