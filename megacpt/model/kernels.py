# SPDX-License-Identifier: Apache-2.0
"""Which of megatron-core's fused kernels and overlaps a run uses: those of its device.

``wanted`` decides by the settings and the kind of device alone; ``kernel_settings`` leaves out
what this installation lacks. Loads megatron-core only where it must.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megacpt.config.sections import (
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
)
from megacpt.errors import EnvironmentError_

BUCKET_PARAMETERS = 128 * 2**20
"""Gradients reduced in one piece. NVIDIA's recipes; megatron-core's own 40 M are too few to fill
a fast network where the reduction overlaps with the backward pass."""
_BRIDGE = "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/"
_MEGATRON = "https://github.com/NVIDIA/Megatron-LM/blob/main/"
_GUIDE = f"{_BRIDGE}docs/performance-guide.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a kernel is chosen by."""

    kernels: KernelsConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    kind: DeviceKind

    @property
    def on_gpu(self) -> bool:
        return self.kind is DeviceKind.gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One row: a switch of megatron-core's TransformerConfig, on where ``applies`` says so."""

    name: str
    when: str
    applies: Callable[[Choice], bool]
    reason: str
    source: str
    lacking: Callable[[], bool] = lambda: False
    """Whether this installation cannot do it."""


def _lacks_rope_kernel() -> bool:
    from megatron.core.models.common.embeddings import rope_utils

    return rope_utils.fused_apply_rotary_pos_emb_thd is None


def _lacks_accumulating_product() -> bool:
    from megatron.core.tensor_parallel import layers

    return not layers._grad_accum_fusion_available


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        name="bias_activation_fusion",
        when="GPU",
        applies=lambda c: c.on_gpu,
        reason="SwiGLU and the bias before it in one kernel, forward and backward",
        source=_GUIDE,
    ),
    Kernel(
        name="bias_dropout_fusion",
        when="GPU",
        applies=lambda c: c.on_gpu,
        reason="bias and residual are added in one kernel",
        source=_GUIDE,
    ),
    Kernel(
        name="masked_softmax_fusion",
        when="GPU",
        applies=lambda c: c.on_gpu,
        reason="for attention that neither FlashAttention nor cuDNN takes",
        source=_GUIDE,
    ),
    Kernel(
        name="apply_rope_fusion",
        when="GPU, kernels.rope_fusion, Transformer Engine has it",
        applies=lambda c: c.on_gpu and c.kernels.rope_fusion,
        reason="one kernel; the plain code waits for the device twice a layer where documents are "
        "packed",
        source=f"{_BRIDGE}src/megatron/bridge/perf_recipes/_common.py",
        lacking=_lacks_rope_kernel,
    ),
    Kernel(
        name="gradient_accumulation_fusion",
        when="GPU, kernels.grad_accum_fusion, no sharded_weights, NVIDIA Apex is installed",
        applies=lambda c: (
            c.on_gpu and c.kernels.grad_accum_fusion and not c.parallel.sharded_weights
        ),
        reason="the weight gradient is added to the fp32 buffer inside the product, so it is never "
        "written in bf16 and read again; sharded weights have no such buffer",
        source=_GUIDE,
        lacking=_lacks_accumulating_product,
    ),
    Kernel(
        name="cross_entropy_loss_fusion",
        when="GPU, kernels.cross_entropy_fusion, bf16, not deterministic",
        applies=lambda c: (
            c.on_gpu
            and c.kernels.cross_entropy_fusion
            and c.precision.dtype is Dtype.bf16
            and not c.kernels.deterministic
        ),
        reason="fewer passes over the logits and one exchange for two; it rounds their gradient "
        "to bf16, and its sums have no fixed order",
        source=f"{_MEGATRON}megatron/core/fusions/fused_cross_entropy.py",
    ),
    Kernel(
        name="tp_comm_overlap",
        when="GPU, kernels.tp_comm_overlap",
        applies=lambda c: c.on_gpu and c.kernels.tp_comm_overlap,
        reason="the gathers and scatters of sequence parallelism run in pieces beside the products "
        "that need them",
        source=_GUIDE,
    ),
    Kernel(
        name="deterministic_mode",
        when="kernels.deterministic",
        applies=lambda c: c.kernels.deterministic,
        reason="the embedding's gradient is summed in a fixed order",
        source=f"{_MEGATRON}docs/user-guide/deterministic-training.md",
    ),
)


def wanted(choice: Choice) -> dict[str, bool]:
    """Switch -> on or off, as far as settings and kind of device say."""
    return {kernel.name: kernel.applies(choice) for kernel in KERNELS}


def kernel_settings(
    kernels: KernelsConfig,
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kind: DeviceKind,
) -> dict[str, Any]:
    """Keyword arguments of megatron-core's TransformerConfig."""
    choice = Choice(kernels=kernels, parallel=parallel, precision=precision, kind=kind)
    return {
        **{kernel.name: kernel.applies(choice) and not kernel.lacking() for kernel in KERNELS},
        # Transformer Engine's own has "known stability issues" in megatron-core's words.
        "cross_entropy_fusion_impl": "native",
        # Weights that will be cut must not lie whole on a GPU before that.
        "use_cpu_initialization": kind is DeviceKind.cpu or parallel.sharded_weights,
    }


def bucket_parameters(parallel: ParallelConfig, *, on_gpu: bool) -> int | None:
    """Parameters of a gradient bucket; None leaves it to megatron-core."""
    return BUCKET_PARAMETERS if on_gpu and parallel.overlap_grad_reduce else None


def resolved(transformer: Any) -> dict[str, bool]:
    """What a built model's TransformerConfig has of the switches, for the record of a run."""
    return {kernel.name: bool(getattr(transformer, kernel.name)) for kernel in KERNELS}


def start_communication_overlap(
    *, tokens: int, hidden_size: int, parallel: ParallelConfig, precision: PrecisionConfig
) -> None:
    """Give Transformer Engine the buffers that tp_comm_overlap works in, before any layer runs.

    ``tokens``: of a microbatch on one rank, before tensor parallelism cuts them.
    """
    from transformer_engine.pytorch.module import base

    if not hasattr(base, "UserBufferQuantizationMode"):
        raise EnvironmentError_(
            "kernels.tp_comm_overlap needs Transformer Engine 2.7 or newer; install it, or use "
            "kernels.tp_comm_overlap=false."
        )
    modes = base.UserBufferQuantizationMode
    recipe = [] if precision.recipe is Recipe.none else [modes.FP8]
    plain = not recipe or precision.bf16_first_layers + precision.bf16_last_layers > 0
    base.initialize_ub(
        shape=[tokens, hidden_size],
        tp_size=parallel.tp,
        quantization_modes=recipe + ([modes.NONE] if plain else []),
        bootstrap_backend="nccl",
    )
