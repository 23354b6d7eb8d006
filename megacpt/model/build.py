# SPDX-License-Identifier: Apache-2.0
"""Build this rank's part of the model: a chunk a virtual pipeline stage, weights not filled."""

from __future__ import annotations

from typing import Any

from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig

from megacpt.config.sections import (
    BaseWeights,
    DeviceKind,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    Recompute,
)
from megacpt.device.fp8 import require_recipe
from megacpt.families.architecture import Architecture
from megacpt.model.adapters.build import add_adapter, freeze, let_recompute
from megacpt.model.config import transformer_config
from megacpt.model.core import Model
from megacpt.model.frozen.linear import pack_linears
from megacpt.model.layer_spec import block_spec
from megacpt.model.layers.attention.chunked import require_one_chunk
from megacpt.model.layers.attention.rope import Ropes
from megacpt.model.layers.experts import add_biases_apart, mark_expert
from megacpt.model.layers.shapes import NormOverHeads
from megacpt.model.placement import placed_params
from megacpt.model.precision import emulate


def build_model(
    architecture: Architecture,
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kind: DeviceKind,
    sequence_length: int,
    kernels: KernelsConfig | None = None,
    base: BaseWeights | None = None,
) -> list[Any]:
    """This rank's chunks, their weights undefined until load_hf or initialise_randomly.

    ``base``: what the frozen weights beside an adapter are kept as, once they are filled.
    megatron-core's parallel state must be initialised with the same layout.
    """
    kernels = kernels or KernelsConfig()
    if kind is DeviceKind.gpu:
        require_recipe(precision)
        require_one_chunk(architecture, sequence_length=sequence_length)
    config = transformer_config(
        architecture,
        parallel=parallel,
        precision=precision,
        kernels=kernels,
        kind=kind,
    )
    stages = range(parallel.vpp) if parallel.vpp > 1 else (None,)
    chunks = [
        _build_chunk(
            architecture,
            config=config,
            kind=kind,
            sequence_length=sequence_length,
            # On GPUs the loss is megatron-core's own fused kernel (megacpt.model.kernels).
            fuse_loss=kernels.cross_entropy_fusion and kind is not DeviceKind.gpu,
            vp_stage=stage,
        )
        for stage in stages
    ]
    if kind is not DeviceKind.gpu:
        for chunk in chunks:
            emulate(chunk, precision=precision)
    if architecture.adapter is not None:
        _adapt(chunks, architecture=architecture, base=base)
    _mark(chunks, architecture=architecture)
    if architecture.adapter is not None:
        freeze(chunks, architecture=architecture)
        for chunk in chunks if parallel.recompute is Recompute.full else ():
            let_recompute(chunk)
    return chunks


def _adapt(chunks: list[Any], *, architecture: Architecture, base: BaseWeights | None) -> None:
    for chunk in chunks:
        chunk.requires_grad_(False)
        if base is not None:
            pack_linears(chunk, packing=base)
    add_adapter(chunks, architecture=architecture)


def padded_vocab_size(architecture: Architecture, *, tp: int) -> int:
    """The vocabulary filled up so that every tensor-parallel rank has equally many rows."""
    return -(-architecture.vocab_size // tp) * tp


def _build_chunk(
    architecture: Architecture,
    *,
    config: TransformerConfig,
    kind: DeviceKind,
    sequence_length: int,
    fuse_loss: bool,
    vp_stage: int | None,
) -> Any:
    stage = {"ignore_virtual": False, "vp_stage": vp_stage}
    model = Model(
        config=config,
        layers=block_spec(
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
        real_vocab_size=architecture.vocab_size,
        scales=architecture.scales,
        fuse_loss=fuse_loss,
    )
    if architecture.qk_norm_over_heads:
        for layer in model.decoder.layers:
            NormOverHeads.put_into(layer.self_attention, norms=architecture.norms)
    if architecture.experts is not None and architecture.mlp_bias:
        add_biases_apart(model)
    Ropes.take_over(model.rotary_pos_emb, architecture=architecture)
    return model


def _mark(chunks: list[Any], *, architecture: Architecture) -> None:
    """Set each parameter's role and megatron-core's attributes of sharding and experts; without
    these the gradient norm counts a sharded weight on the first rank only.

    megatron-core's plain layers set them in their initialisation, which is turned off.
    """
    for placed in placed_params(chunks, architecture=architecture):
        placed.tensor.role = placed.row.role  # type: ignore[attr-defined]
        if placed.row.tp_dim is not None:
            placed.tensor.tensor_model_parallel = True  # type: ignore[attr-defined]
            placed.tensor.partition_dim = placed.row.tp_dim  # type: ignore[attr-defined]
            if not hasattr(placed.tensor, "partition_stride"):
                placed.tensor.partition_stride = 1  # type: ignore[attr-defined]
        if placed.row.per_expert:
            mark_expert(placed.tensor)
            if placed.row.of_adapter and placed.row.tp_dim is None and placed.cut.size > 1:
                # Whole on each rank that the expert is cut over: only the first one's counts.
                placed.tensor.tensor_model_parallel = False  # type: ignore[attr-defined]
