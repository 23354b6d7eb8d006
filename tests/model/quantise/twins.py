# SPDX-License-Identifier: Apache-2.0
"""The recipes once more in NumPy, block by block and by the formulas of their papers, for clarity.

Numbers are rounded by ml_dtypes, which shares no code with PyTorch.

    E4M3, E5M2   Micikevicius et al., arXiv 2209.05433, table 1
    blocks       DeepSeek-V3, arXiv 2412.19437, section 3.3.2; scales rounded down to powers of two
    MXFP8        OCP Microscaling Formats v1.0, sections 5.1 to 5.4; scales rounded up
    NVFP4        arXiv 2509.25149, appendix C
    delayed      Transformer Engine, docstring of DelayedScaling and its rules for zero and infinity
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
TYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
LARGEST = {"e4m3": np.float32(448), "e5m2": np.float32(57344)}
SMALLEST_EXPONENT = -127


def cut(array: Array, block: tuple[int, int]) -> Iterator[tuple[int, int, Any]]:
    """Row and column of each block among the blocks, and where it lies."""
    rows, columns = block
    for m in range(-(-array.shape[0] // rows)):
        for n in range(-(-array.shape[1] // columns)):
            place = np.s_[m * rows : (m + 1) * rows, n * columns : (n + 1) * columns]
            yield m, n, place


def rounded(values: Array, kind: str) -> Array:
    """To the nearest number of the format; what is too large becomes the largest."""
    limit = LARGEST[kind]
    return np.clip(values, -limit, limit).astype(TYPES[kind])


def blockwise(x: Array, *, block: tuple[int, int], kind: str) -> tuple[Array, Array]:
    """Codes, and the scale by which each block's codes are multiplied to read them."""
    codes = np.zeros(x.shape, dtype=TYPES[kind])
    scales = np.zeros((-(-x.shape[0] // block[0]), -(-x.shape[1] // block[1])), dtype=np.float32)
    for m, n, place in cut(x, block):
        amax = np.abs(x[place]).max()
        exponent = 0 if amax == 0 else int(np.floor(np.log2(np.float64(LARGEST[kind] / amax))))
        codes[place] = rounded(x[place] * np.float32(2.0**exponent), kind)
        scales[m, n] = np.float32(2.0**-exponent)
    return codes, scales


def microscaled(x: Array, *, block: tuple[int, int], kind: str) -> tuple[Array, Array]:
    """Codes, and the biased exponent of each block's scale."""
    codes = np.zeros(x.shape, dtype=TYPES[kind])
    scales = np.zeros((-(-x.shape[0] // block[0]), -(-x.shape[1] // block[1])), dtype=np.uint8)
    for m, n, place in cut(x, block):
        # A float32 reciprocal, as the kernel has it: it decides at exact powers of two.
        quotient = np.float32(np.abs(x[place]).max()) * np.float32(1.0 / np.float64(LARGEST[kind]))
        exponent = SMALLEST_EXPONENT
        if quotient > 0:
            exponent = max(int(np.ceil(np.log2(np.float64(quotient)))), SMALLEST_EXPONENT)
        codes[place] = rounded((x[place] * 2.0**-exponent).astype(np.float32), kind)
        scales[m, n] = exponent - SMALLEST_EXPONENT
    return codes, scales


def nvfp4(x: Array, *, block: tuple[int, int]) -> tuple[Array, Array, np.float32]:
    """E2M1 values, the E4M3 scale of each block, and the matrix's largest absolute value."""
    values = np.zeros(x.shape, dtype=ml_dtypes.float4_e2m1fn)
    shape = (-(-x.shape[0] // block[0]), -(-x.shape[1] // block[1]))
    scales = np.zeros(shape, dtype=TYPES["e4m3"])
    amax = np.float32(np.abs(x).max())
    encode = np.float32(448 * 6) / amax
    for m, n, place in cut(x, block):
        block_amax = np.float32(np.abs(x[place]).max())
        scales[m, n] = rounded(block_amax * (encode * (np.float32(1) / np.float32(6))), "e4m3")
        decode = np.float32(scales[m, n]) * (np.float32(1) / encode)
        with np.errstate(divide="ignore", over="ignore"):
            factor = min(np.float32(1) / decode, np.finfo(np.float32).max)
            values[place] = np.clip(x[place] * factor, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    return values, scales, amax


@dataclass
class Delayed:
    """One matrix's scale from the largest absolute values of its last ``length`` passes."""

    kind: str
    length: int
    scale: Any = 1.0
    history: tuple[np.float32, ...] = ()

    def enter(self, amax: float) -> np.float32:
        """The scale of the next pass."""
        if amax != 0:
            self.history = (*self.history, np.float32(amax))[-self.length :]
            seen = [value for value in self.history if not np.isnan(value)]
            largest = max(seen, default=np.float32(0))
            if np.isfinite(largest) and largest > 0:
                with np.errstate(over="ignore"):
                    scale = LARGEST[self.kind] / largest
                self.scale = np.minimum(scale, np.finfo(np.float32).max)
        return self.scale
