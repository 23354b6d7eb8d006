# SPDX-License-Identifier: Apache-2.0
"""What the precision settings mean for planning, checking, building and labelling a run."""

from __future__ import annotations

from megacpt.config.sections import Fp8Format, PrecisionConfig, Recipe

SIZE_MULTIPLE = {
    Recipe.delayed: 16,
    Recipe.tensorwise: 16,
    Recipe.blockwise: 16,
    Recipe.mxfp8: 32,
    Recipe.nvfp4: 32,
}
"""What every size of a product must be a multiple of, as Transformer Engine has it. Blocks of 128
may be partial, those of 32 may not; 32 four-bit values are the 16 bytes that memory moves at once.
"""


def quantises(precision: PrecisionConfig) -> bool:
    return precision.recipe is not Recipe.none


def is_fp8(recipe: Recipe) -> bool:
    return recipe not in (Recipe.none, Recipe.nvfp4)


def format_of(precision: PrecisionConfig) -> Fp8Format:
    """The number format asked for, or what Transformer Engine's recipe has by itself: a scale for
    each block leaves gradients no need of the wide range of e5m2."""
    if precision.fp8_format is not None:
        return precision.fp8_format
    per_block = precision.recipe in (Recipe.blockwise, Recipe.mxfp8, Recipe.nvfp4)
    return Fp8Format.e4m3 if per_block else Fp8Format.hybrid


def keeps_bf16(precision: PrecisionConfig, *, layer: int, num_layers: int) -> bool:
    """Whether the layer (counted over the whole model from 0) is left out of the recipe."""
    first, last = precision.bf16_first_layers, precision.bf16_last_layers
    return layer < first or layer >= num_layers - last


def weight_copy_bytes(precision: PrecisionConfig) -> int:
    """Extra bytes of each weight of a layer: a copy for products that read rows and one for those
    that read columns. Weights kept in fp8 need none: these two are the weight."""
    return 2 if quantises(precision) and not precision.fp8_param_gather else 0


def precision_name(precision: PrecisionConfig, *, emulated: bool) -> str:
    """Name for logs and reports, which says so if it is an emulation."""
    if not quantises(precision):
        return precision.dtype.name
    width = f"fp8 {precision.recipe.name}" if is_fp8(precision.recipe) else "nvfp4"
    if precision.recipe is Recipe.mxfp8:
        width = "mxfp8"
    kept = precision.bf16_first_layers, precision.bf16_last_layers
    layers = f", first {kept[0]} and last {kept[1]} layers in bf16" if any(kept) else ""
    return f"{width}{layers}" + (" (emulation, not FP8 hardware)" if emulated else "")
