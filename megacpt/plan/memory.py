# SPDX-License-Identifier: Apache-2.0
"""Bytes of the fullest rank and of a checkpoint, from the shape of the model and the layout.

Activations follow Korthikanti et al., section 4 (https://arxiv.org/abs/2205.05198) with the
attention scores left out, because attention is computed in blocks; 16-bit values there, so fp32
counts twice. An estimate: allocator slack and communication buffers are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacpt.config.sections import DataConfig, Dtype, ParallelConfig
from megacpt.plan.architecture import Architecture

GRADIENT_BYTES = 4
ADAM_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on the rank that holds most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def rank_memory(
    architecture: Architecture, *, data: DataConfig, parallel: ParallelConfig, dtype: Dtype
) -> RankMemory:
    """Of the first or last pipeline stage, whichever is fuller."""
    parameters = rank_parameters(architecture, parallel=parallel)
    shards = parallel.dp if parallel.distributed_optimizer else 1
    return RankMemory(
        weights=parameters * value_bytes(dtype),
        gradients=parameters * GRADIENT_BYTES,
        optimizer=parameters * (ADAM_BYTES + master_bytes(dtype)) // shards,
        activations=_activations(architecture, data=data, parallel=parallel, dtype=dtype),
        logits=_logits(architecture, data=data, parallel=parallel, dtype=dtype),
    )


def rank_parameters(architecture: Architecture, *, parallel: ParallelConfig) -> int:
    """Parameters of the fullest rank: an even share of the layers and one embedding table.

    With one stage both tables are on it; a tied table lies on first and last stage.
    """
    table = architecture.vocab_size * architecture.hidden_size
    tables = 1 if architecture.tied_embeddings or parallel.pp > 1 else 2
    all_tables = table if architecture.tied_embeddings else 2 * table
    layers = architecture.num_parameters - all_tables
    return -(-layers // (parallel.tp * parallel.pp)) + -(-tables * table // parallel.tp)


def value_bytes(dtype: Dtype) -> int:
    return 4 if dtype is Dtype.fp32 else 2


def master_bytes(dtype: Dtype) -> int:
    """bf16 keeps a second, fp32 copy of the weights."""
    return 0 if dtype is Dtype.fp32 else 4


def checkpoint_bytes(architecture: Architecture, *, dtype: Dtype) -> int:
    """Weights, master weights and both Adam moments, once over all ranks."""
    per_parameter = value_bytes(dtype) + master_bytes(dtype) + ADAM_BYTES
    return architecture.num_parameters * per_parameter


def _activations(
    architecture: Architecture, *, data: DataConfig, parallel: ParallelConfig, dtype: Dtype
) -> int:
    """34 bytes a token, hidden unit and layer; 10 of them are cut over tp only with sequence
    parallelism. The first of p stages keeps p microbatches in flight: as much as all layers."""
    tokens = data.sequence_length * data.micro_batch_size
    uncut = 10 / (parallel.tp if parallel.sequence_parallel else 1)
    per_token = (uncut + 24 / parallel.tp) * architecture.hidden_size * architecture.num_layers
    interleaved = 1 + (parallel.pp - 1) / (parallel.pp * parallel.vpp) if parallel.vpp > 1 else 1
    return int(tokens * per_token * interleaved * value_bytes(dtype) / 2)


def _logits(
    architecture: Architecture, *, data: DataConfig, parallel: ParallelConfig, dtype: Dtype
) -> int:
    """The logits, their fp32 copy and its gradient."""
    tokens = data.sequence_length * data.micro_batch_size
    columns = -(-architecture.vocab_size // parallel.tp)
    return tokens * columns * (8 + value_bytes(dtype))
