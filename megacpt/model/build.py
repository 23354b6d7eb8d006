# SPDX-License-Identifier: Apache-2.0
"""Build this rank's part of the model: one GPTModel a virtual pipeline stage, weights not filled.

Shapes: S sequence, B batch, V the vocabulary columns of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig

from megacpt.config.sections import DeviceKind, KernelsConfig, ParallelConfig, PrecisionConfig
from megacpt.model.placement import placed_params
from megacpt.model.rope import inverse_frequencies
from megacpt.model.spec import block_spec
from megacpt.model.transformer import transformer_config
from megacpt.plan.architecture import Architecture


class Model(GPTModel):  # type: ignore[misc]
    """GPTModel whose padded vocabulary columns can never be predicted.

    Tensor parallelism needs equal shares, so the vocabulary is filled up to a multiple of tp. The
    filler's logits are set to the lowest number as they leave the output layer, so they add
    nothing to the softmax, get no gradient and never win an argmax.
    """

    def mask_padding(self, vocab_size: int) -> None:
        """Columns from ``vocab_size`` on are padding."""
        if self.post_process and self.vocab_size > vocab_size:
            self.output_layer.register_forward_hook(_PaddingMask(vocab_size, self.vocab_size))


class _PaddingMask:
    """A forward hook: a module-level class, so that a model can still be pickled and copied."""

    def __init__(self, vocab_size: int, padded_size: int) -> None:
        self.vocab_size = vocab_size
        self.padded_size = padded_size

    def __call__(self, _module: Any, _inputs: Any, output: Any) -> Any:
        logits_SBV, bias = output
        width = logits_SBV.shape[-1]
        gathered = width == self.padded_size
        rank = 0 if gathered else parallel_state.get_tensor_model_parallel_rank()
        real = max(self.vocab_size - rank * width, 0)
        if real < width:
            logits_SBV[..., real:] = torch.finfo(logits_SBV.dtype).min
        return logits_SBV, bias


def build_model(
    architecture: Architecture,
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kind: DeviceKind,
    sequence_length: int,
    kernels: KernelsConfig | None = None,
) -> list[Any]:
    """This rank's chunks, their weights undefined until load_hf or initialise_randomly.

    megatron-core's parallel state must be initialised with the same layout.
    """
    config = transformer_config(
        architecture,
        parallel=parallel,
        precision=precision,
        kernels=kernels or KernelsConfig(),
        kind=kind,
    )
    stages = range(parallel.vpp) if parallel.vpp > 1 else (None,)
    chunks = [
        _build_chunk(
            architecture,
            config=config,
            kind=kind,
            sequence_length=sequence_length,
            vp_stage=stage,
        )
        for stage in stages
    ]
    _mark_tensor_parallel(chunks, architecture=architecture)
    return chunks


def padded_vocab_size(architecture: Architecture, *, tp: int) -> int:
    """The vocabulary filled up so that every tensor-parallel rank has equally many rows."""
    return -(-architecture.vocab_size // tp) * tp


def _build_chunk(
    architecture: Architecture,
    *,
    config: TransformerConfig,
    kind: DeviceKind,
    sequence_length: int,
    vp_stage: int | None,
) -> Model:
    stage = {"ignore_virtual": False, "vp_stage": vp_stage}
    model = Model(
        config=config,
        transformer_layer_spec=block_spec(
            architecture,
            config=config,
            kind=kind,
            pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
            vp_stage=vp_stage,
        ),
        vocab_size=padded_vocab_size(architecture, tp=config.tensor_model_parallel_size),
        max_sequence_length=sequence_length,
        pre_process=parallel_state.is_pipeline_first_stage(**stage),
        post_process=parallel_state.is_pipeline_last_stage(**stage),
        share_embeddings_and_output_weights=architecture.tied_embeddings,
        position_embedding_type="rope",
        vp_stage=vp_stage,
    )
    model.mask_padding(architecture.vocab_size)
    rotary = model.rotary_pos_emb
    rotary.inv_freq = inverse_frequencies(architecture).to(rotary.inv_freq.device)
    return model


def _mark_tensor_parallel(chunks: list[Any], *, architecture: Architecture) -> None:
    """Say which parameters are cut, or the gradient norm counts them on the first rank only.

    megatron-core's plain layers say so as part of their initialisation, which is turned off.
    """
    for placed in placed_params(chunks, architecture=architecture):
        if placed.row.tp_dim is not None:
            placed.tensor.tensor_model_parallel = True  # type: ignore[attr-defined]
            placed.tensor.partition_dim = placed.row.tp_dim  # type: ignore[attr-defined]
            if not hasattr(placed.tensor, "partition_stride"):
                placed.tensor.partition_stride = 1  # type: ignore[attr-defined]
