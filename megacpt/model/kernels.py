# SPDX-License-Identifier: Apache-2.0
"""Which fused kernels megatron-core uses: those of the device, where this installation has them."""

from __future__ import annotations

from typing import Any

from megatron.core.models.common.embeddings import rope_utils
from megatron.core.tensor_parallel import layers

from megacpt.config.sections import DeviceKind, KernelsConfig


def kernel_settings(kernels: KernelsConfig, *, kind: DeviceKind) -> dict[str, Any]:
    """Keyword arguments of megatron-core's TransformerConfig."""
    on_gpu = kind is DeviceKind.gpu
    return {
        "use_cpu_initialization": not on_gpu,
        "bias_activation_fusion": on_gpu,
        "bias_dropout_fusion": on_gpu,
        "masked_softmax_fusion": on_gpu,
        # The plain rotary code waits for the device twice a layer where documents are packed.
        "apply_rope_fusion": (
            on_gpu and kernels.rope_fusion and rope_utils.fused_apply_rotary_pos_emb_thd is not None
        ),
        "gradient_accumulation_fusion": (
            on_gpu and kernels.grad_accum_fusion and layers._grad_accum_fusion_available
        ),
    }
