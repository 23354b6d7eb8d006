# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's reference quantisers beside ours, in a process of their own.

WORK_DIR/oracle.json gets, for every case, whether codes and scales are the same, bit for bit. The
references are pure PyTorch and run on a CPU; only importing their package asks for a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.model.te_documents import pretend_a_gpu

SHAPES = [(64, 48), (128, 256), (16, 16), (160, 96)]


def matrices() -> Iterator[tuple[str, torch.Tensor]]:
    """Ordinary values, values of very different sizes, blocks of zeros, tiny values, all zeros."""
    generator = torch.Generator().manual_seed(5)
    for rows, columns in SHAPES:
        x = torch.randn(rows, columns, generator=generator)
        sizes = torch.exp(4 * torch.randn(rows, columns, generator=generator))
        sparse = torch.where(torch.arange(columns) % 32 < 16, x, 0.0)
        kinds = {"normal": x, "wide": x * sizes, "sparse": sparse, "tiny": x * 1e-30}
        for kind, values in (kinds | {"zeros": torch.zeros_like(x)}).items():
            for dtype in (torch.bfloat16, torch.float32):
                yield f"{kind} {rows}x{columns} {dtype}", values.to(dtype)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """The same type, shape and bits."""
    found, expected = found.contiguous(), expected.contiguous()
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    return torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


def tensorwise(x: torch.Tensor) -> dict[str, bool]:
    from transformer_engine.pytorch.custom_recipes import reference_current_scaling as reference

    from megacpt.model.quantise.recipes import Tensorwise

    results = {}
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        expected = reference.CurrentScalingQuantizerRef(dtype=dtype).quantize(x)
        found = Tensorwise(forward=dtype, backward=dtype).quantise(x, dtype=dtype)
        results[f"tensorwise {name} codes"] = same(found.codes, expected.data)
        results[f"tensorwise {name} transposed"] = same(found.codes.t(), expected.data_t)
        results[f"tensorwise {name} scale"] = same(found.scales.view(1), expected.scale)
    return results


def block_scale(x: torch.Tensor) -> dict[str, bool]:
    """The rule of a block's scale, which Transformer Engine states beside current scaling."""
    from transformer_engine.pytorch.custom_recipes import reference_current_scaling as reference

    from megacpt.model.quantise import blocks

    dtype = torch.float8_e4m3fn
    amax = blocks.block_amax(x, block=(1, 16))
    _, expected, _ = reference._scale_from_amax_tensor(
        x.dtype, amax, dtype, eps=0.0, pow_2_scales=True
    )
    found = blocks.power_of_two_blocks(x, block=(1, 16), dtype=dtype)
    return {"power of two scales": same(found.scales, expected)}


def nvfp4(x: torch.Tensor) -> dict[str, bool]:
    """Activations as they are (forward) and rotated (weight gradient), weights in squares."""
    from transformer_engine.pytorch.custom_recipes import reference_nvfp4 as reference
    from transformer_engine.pytorch.custom_recipes.reference_utils import Fp4Formats

    from megacpt.model.quantise import blocks
    from megacpt.model.quantise.recipes import rotated

    flat = reference.NVFP4QuantizerRef(dtype=Fp4Formats.E2M1, with_rht=True).quantize(x)
    square = reference.NVFP4QuantizerRef(
        dtype=Fp4Formats.E2M1, quant_tile_shape=(16, 16), with_rht=False
    ).quantize(x)
    rows = blocks.nvfp4_blocks(x, block=(1, 16))
    columns = blocks.nvfp4_blocks(rotated(x), block=(16, 1))
    whole = blocks.nvfp4_blocks(x, block=(16, 16))
    return {
        "nvfp4 rows codes": same(packed(rows.codes), flat.data),
        "nvfp4 rows scales": same(rows.scales, flat.scale),
        "nvfp4 rows amax": same(amax(rows), flat.global_amax_row),
        "nvfp4 rotated codes": same(packed(columns.codes.t()), flat.data_t),
        "nvfp4 rotated scales": same(columns.scales.t(), flat.scale_t),
        "nvfp4 rotated amax": same(amax(columns), flat.global_amax_col),
        "nvfp4 squares codes": same(packed(whole.codes), square.data),
        "nvfp4 squares transposed": same(packed(whole.codes.t()), square.data_t),
        "nvfp4 squares scales": same(whole.scales.repeat_interleave(16, dim=0), square.scale),
    }


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Two E2M1 values a byte, the first in the low half."""
    sizes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    nibbles = torch.searchsorted(sizes, codes.abs().contiguous()) + 8 * torch.signbit(codes)
    return (nibbles[:, ::2] + 16 * nibbles[:, 1::2]).to(torch.uint8)


def amax(quantised: Any) -> torch.Tensor:
    assert quantised.amax is not None
    found: torch.Tensor = quantised.amax.view(1)
    return found


def compare(work: Path, _: Any) -> None:
    pretend_a_gpu()
    import transformer_engine.pytorch  # noqa: F401

    found = {name: tensorwise(x) | block_scale(x) | nvfp4(x) for name, x in matrices()}
    (work / "oracle.json").write_text(json.dumps(found))
