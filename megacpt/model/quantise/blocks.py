# SPDX-License-Identifier: Apache-2.0
"""Matrices whose values share scales: one scale for all, or one for each block.

Shapes: R x C a matrix, r x c a block; M = R / r and N = C / c blocks, rounded up. A partial block
at the edge is filled up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from megacpt.model.quantise import numbers
from megacpt.model.quantise.numbers import E2M1_MAX

Block = tuple[int, int]
E4M3_MAX = numbers.largest(numbers.E4M3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One side of a matrix product: ``values`` times ``factor`` is what was quantised."""

    values: torch.Tensor
    """R x C in bfloat16, exact."""
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """Small numbers and the scales that lead back to the values they stand for."""

    codes: torch.Tensor
    """R x C: float8, or E2M1 values in float32."""
    scales: torch.Tensor
    """What codes are multiplied with, M x N: float32, E8M0 exponents (uint8) or E4M3."""
    block: Block
    amax: torch.Tensor | None = None
    """NVFP4: the largest absolute value of the matrix, which its scales are relative to."""

    def operand(self) -> Operand:
        """For a product; a single scale becomes the factor, since bfloat16 could not hold it."""
        if self.scales.numel() == 1 and self.scales.dtype == torch.float32:
            return Operand(values=self.codes.to(torch.bfloat16), factor=self.scales.item())
        scales = self.scales
        wide = numbers.e8m0_value(scales) if scales.dtype == torch.uint8 else scales.float()
        values = scale_blocks(self.codes.float(), scales_MN=wide, block=self.block).to(
            torch.bfloat16
        )
        factor = 1.0 if self.amax is None else (self.amax / (E2M1_MAX * E4M3_MAX)).item()
        return Operand(values=values, factor=factor)


def per_tensor(x_RC: torch.Tensor, *, scale: torch.Tensor, dtype: torch.dtype) -> Quantised:
    """One given scale for the whole matrix."""
    codes = numbers.to_fp8(x_RC.float() * scale, dtype=dtype)
    return Quantised(codes=codes, scales=scale.reciprocal().view(1, 1), block=_whole(x_RC))


def current_scale(x_RC: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """The scale that takes the largest absolute value to the largest number."""
    return scale_of(amax_of(x_RC), source=x_RC.dtype, dtype=dtype)


def power_of_two_blocks(x_RC: torch.Tensor, *, block: Block, dtype: torch.dtype) -> Quantised:
    """A scale a block (DeepSeek-V3, arXiv 2412.19437, section 3.3.2), rounded down to a power of
    two, as Transformer Engine's recipe has it."""
    amax_MN = block_amax(x_RC, block=block)
    scales_MN = scale_of(amax_MN, source=x_RC.dtype, dtype=dtype)
    scales_MN = numbers.power_of_two_below(scales_MN)
    codes = numbers.to_fp8(
        scale_blocks(x_RC.float(), scales_MN=scales_MN, block=block), dtype=dtype
    )
    return Quantised(codes=codes, scales=scales_MN.reciprocal(), block=block)


def mx_blocks(x_RC: torch.Tensor, *, block: Block, dtype: torch.dtype) -> Quantised:
    """A power of two a block of 32 (OCP Microscaling, section 6.3), rounded so that nothing is cut.

    The specification's conversion takes the exponent of the largest value, which cuts what lies
    above 448 times it; Transformer Engine rounds the exponent of amax / 448 up instead.
    """
    amax_MN = block_amax(x_RC, block=block)
    reciprocal = torch.tensor(1.0 / numbers.largest(dtype), dtype=torch.float32)
    exponents_MN = numbers.to_e8m0(amax_MN * reciprocal)
    scaled = scale_blocks(
        x_RC.float(), scales_MN=numbers.e8m0_reciprocal(exponents_MN), block=block
    )
    codes = numbers.to_fp8(scaled, dtype=dtype)
    return Quantised(codes=codes, scales=exponents_MN, block=block)


def nvfp4_blocks(x_RC: torch.Tensor, *, block: Block, stochastic: bool = False) -> Quantised:
    """E2M1 numbers with an E4M3 scale a block of 16, itself relative to one float32 scale
    (arXiv 2509.25149, section 2 and appendix C)."""
    amax = amax_of(x_RC)
    largest = torch.finfo(torch.float32).max
    encode = quotient(E4M3_MAX * E2M1_MAX, divisor=amax).clamp(max=largest)
    encode = torch.where(encode == 0.0, torch.ones_like(encode), encode)
    per_six = encode * torch.tensor(E2M1_MAX, dtype=torch.float32).reciprocal()
    scales_MN = numbers.to_fp8(block_amax(x_RC, block=block) * per_six, dtype=numbers.E4M3)
    block_encode_MN = (scales_MN.float() * encode.reciprocal()).reciprocal().clamp(max=largest)
    scaled = scale_blocks(x_RC.float(), scales_MN=block_encode_MN, block=block)
    codes = numbers.to_e2m1_stochastically(scaled) if stochastic else numbers.to_e2m1(scaled)
    return Quantised(codes=codes, scales=scales_MN, block=block, amax=amax)


def scale_of(amax: torch.Tensor, *, source: torch.dtype, dtype: torch.dtype) -> torch.Tensor:
    """The largest number over amax; 1 for zeros. ``source``: the type of the values, whose largest
    number stands in where amax is too small for the quotient to be finite."""
    scale = quotient(numbers.largest(dtype), divisor=amax)
    scale = torch.where(torch.isinf(scale), torch.finfo(source).max, scale)
    return torch.where(amax == 0.0, torch.ones_like(scale), scale)


def quotient(dividend: float, *, divisor: torch.Tensor) -> torch.Tensor:
    """Rounded once; ``dividend / divisor`` would multiply with the rounded reciprocal."""
    return torch.div(torch.tensor(dividend, dtype=divisor.dtype), divisor)


def amax_of(x: torch.Tensor) -> torch.Tensor:
    """Largest absolute value, float32 without dimensions; 0 of no values."""
    if x.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=x.device)
    return x.abs().amax().float()


def block_amax(x_RC: torch.Tensor, *, block: Block) -> torch.Tensor:
    """Largest absolute value of each block, M x N in float32."""
    return _tiles(x_RC.abs(), block=block).float().amax(dim=(1, 3))


def scale_blocks(wide_RC: torch.Tensor, *, scales_MN: torch.Tensor, block: Block) -> torch.Tensor:
    """Each value times its block's scale."""
    rows, columns = wide_RC.shape
    scaled = _tiles(wide_RC, block=block) * scales_MN[:, None, :, None]
    whole = scaled.view(scaled.shape[0] * block[0], scaled.shape[2] * block[1])
    return whole[:rows, :columns]


def _tiles(x_RC: torch.Tensor, *, block: Block) -> torch.Tensor:
    """The matrix as M x r x N x c."""
    rows, columns = x_RC.shape
    missing_rows, missing_columns = -rows % block[0], -columns % block[1]
    if missing_rows or missing_columns:
        x_RC = pad(x_RC, (0, missing_columns, 0, missing_rows))
    M, N = x_RC.shape[0] // block[0], x_RC.shape[1] // block[1]
    return x_RC.reshape(M, block[0], N, block[1])


def _whole(x_RC: torch.Tensor) -> Block:
    return (x_RC.shape[0], x_RC.shape[1])
