# SPDX-License-Identifier: Apache-2.0
"""What a precision means for the model: Transformer Engine's settings on GPUs, emulation elsewhere.

The recipes apply to the matrix products of the transformer layers (attention's two, the MLP's or
experts' two), never to embedding, head or router.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from megacpt.config.sections import DeviceKind, Dtype, Fp8Format, PrecisionConfig, Recipe
from megacpt.model.quantise.delayed import DelayedScaling
from megacpt.model.quantise.linear import quantise_linears, watch_histories
from megacpt.model.quantise.numbers import E4M3, E5M2
from megacpt.model.quantise.recipes import (
    Blockwise,
    Microscaling,
    NvFp4,
    Quantiser,
    Tensorwise,
)
from megacpt.plan.precision import format_of, is_fp8, keeps_bf16, quantises


def precision_settings(precision: PrecisionConfig, *, kind: DeviceKind) -> dict[str, Any]:
    """megatron-core's TransformerConfig fields. On CPUs it is not told of the recipe: its FP8 code
    asks for Transformer Engine, and the emulation takes the layers' products instead."""
    dtype = torch.bfloat16 if precision.dtype is Dtype.bf16 else torch.float32
    settings = {"params_dtype": dtype, "pipeline_dtype": dtype, "bf16": dtype is torch.bfloat16}
    if kind is not DeviceKind.gpu or not quantises(precision):
        return settings
    return settings | _recipe(precision) | _bf16_layers(precision)


def _recipe(precision: PrecisionConfig) -> dict[str, Any]:
    if not is_fp8(precision.recipe):
        return {"fp4": "e2m1", "fp4_recipe": precision.recipe.value}
    return {
        "fp8": format_of(precision).value,
        "fp8_recipe": precision.recipe.value,
        "fp8_amax_history_len": precision.amax_history_length,
        "fp8_amax_compute_algo": "max",
        "fp8_param": precision.fp8_param_gather,
    }


def _bf16_layers(precision: PrecisionConfig) -> dict[str, Any]:
    return {
        "first_last_layers_bf16": precision.bf16_first_layers + precision.bf16_last_layers > 0,
        "num_layers_at_start_in_bf16": precision.bf16_first_layers,
        "num_layers_at_end_in_bf16": precision.bf16_last_layers,
    }


def emulate(model: Any, *, precision: PrecisionConfig) -> None:
    """Quantise the products of this chunk's layers, but for those that stay in bf16."""
    if not quantises(precision):
        return
    for layer in model.decoder.layers:
        index = layer.layer_number - 1
        if not keeps_bf16(precision, layer=index, num_layers=model.config.num_layers):
            quantise_linears(layer, make=quantiser_maker(precision))
    watch_histories(model)


def quantiser_maker(precision: PrecisionConfig) -> Callable[[], Quantiser]:
    """Makes the recipe for one layer; only delayed scaling has a state of its own there."""
    formats: dict[str, Any] = {
        "forward": E4M3,
        "backward": E5M2 if format_of(precision) is Fp8Format.hybrid else E4M3,
    }
    makers: dict[Recipe, Callable[[], Quantiser]] = {
        Recipe.delayed: partial(
            DelayedScaling, history_length=precision.amax_history_length, **formats
        ),
        Recipe.tensorwise: partial(Tensorwise, **formats),
        Recipe.blockwise: partial(Blockwise, **formats),
        Recipe.mxfp8: partial(Microscaling, **formats),
        Recipe.nvfp4: NvFp4,
    }
    return makers[precision.recipe]
