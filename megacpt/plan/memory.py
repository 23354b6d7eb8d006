# SPDX-License-Identifier: Apache-2.0
"""Bytes of the fullest rank and of a checkpoint, from the shape of the model and the layout.

Activations follow Korthikanti et al., section 4 (https://arxiv.org/abs/2205.05198) with the
attention scores left out, because attention is computed in blocks; 16-bit values there, so fp32
counts twice. An estimate: allocator slack and communication buffers are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacpt.config.sections import DataConfig, Dtype, ParallelConfig, Recompute
from megacpt.families.architecture import Architecture
from megacpt.plan.layers_per_stage import stage_layers
from megacpt.plan.rules.experts import expert_tensor_ranks

GRADIENT_BYTES = 4
ADAM_BYTES = 8
MASTER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on the rank that holds most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    host_optimizer: int = 0
    """Optimizer state that was offloaded: in host memory, so the total is without it."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def rank_memory(
    architecture: Architecture,
    *,
    data: DataConfig,
    parallel: ParallelConfig,
    dtype: Dtype,
    offload: bool = False,
    weight_copy_bytes: int = 0,
) -> RankMemory:
    """Of the fullest pipeline rank. Assumes that megacpt.plan.rules.parallel found nothing."""
    stages = (
        _Stage(
            architecture=architecture,
            data=data,
            parallel=parallel,
            dtype=dtype,
            rank=rank,
            weight_copy_bytes=weight_copy_bytes,
        )
        for rank in range(parallel.pp)
    )
    return max((stage.memory(offload=offload) for stage in stages), key=lambda m: m.total)


def rank_parameters(architecture: Architecture, *, parallel: ParallelConfig, rank: int = 0) -> int:
    """Parameters of a pipeline rank's share, those of experts left out.

    With one stage both tables are on it; a tied table lies on first and last stage.
    """
    is_last = rank == parallel.pp - 1
    layers = stage_layers(architecture.num_layers, parallel=parallel)[rank] * _layer(architecture)
    final_norm = architecture.hidden_size if is_last else 0
    tables = _tables(architecture, parallel=parallel, rank=rank)
    return -(-(layers + final_norm) // parallel.tp) + -(-tables // parallel.tp)


def rank_expert_parameters(
    architecture: Architecture, *, parallel: ParallelConfig, rank: int = 0
) -> int:
    """Parameters of the experts a rank holds, or its share of them; 0 in a dense model."""
    layers = stage_layers(architecture.num_layers, parallel=parallel)[rank]
    of_stage = architecture.num_expert_parameters // architecture.num_layers * layers
    return -(-of_stage // (parallel.ep * expert_tensor_ranks(parallel)))


def expert_replicas(parallel: ParallelConfig) -> int:
    """Ranks of a stage that hold the same part of the same experts."""
    ranks = parallel.tp * parallel.cp * parallel.dp
    return ranks // (parallel.ep * expert_tensor_ranks(parallel))


def value_bytes(dtype: Dtype) -> int:
    return 4 if dtype is Dtype.fp32 else 2


def master_bytes(dtype: Dtype) -> int:
    """bf16 keeps a second, fp32 copy of the weights."""
    return 0 if dtype is Dtype.fp32 else MASTER_BYTES


def checkpoint_bytes(architecture: Architecture, *, dtype: Dtype) -> int:
    """Weights, master weights and both Adam moments, once over all ranks."""
    per_parameter = value_bytes(dtype) + master_bytes(dtype) + ADAM_BYTES
    return architecture.num_parameters * per_parameter


def _tables(architecture: Architecture, *, parallel: ParallelConfig, rank: int) -> int:
    """Parameters of the embedding and output matrices on a pipeline rank."""
    is_first, is_last = rank == 0, rank == parallel.pp - 1
    is_one = architecture.tied_embeddings and is_first and is_last
    tables = 1 if is_one else int(is_first) + int(is_last)
    return tables * architecture.vocab_size * architecture.hidden_size


def _layer(architecture: Architecture) -> int:
    """Parameters of a layer, its experts left out."""
    tables = 1 if architecture.tied_embeddings else 2
    outside = (tables * architecture.vocab_size + 1) * architecture.hidden_size
    return (architecture.num_parameters_outside_experts - outside) // architecture.num_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One pipeline rank."""

    architecture: Architecture
    data: DataConfig
    parallel: ParallelConfig
    dtype: Dtype
    rank: int
    weight_copy_bytes: int
    """Of a weight of a layer, quantised (megacpt.plan.precision)."""

    def memory(self, *, offload: bool) -> RankMemory:
        weights, gradients, optimizer = (
            self._whole_states() if not self.parallel.sharded_weights else self._cut_states()
        )
        return RankMemory(
            weights=weights + self._layer_parameters() * self.weight_copy_bytes,
            gradients=gradients,
            optimizer=0 if offload else optimizer,
            activations=int(self.tokens * self._activations() * value_bytes(self.dtype) / 2),
            logits=self._logits() if self.rank == self.parallel.pp - 1 else 0,
            host_optimizer=optimizer if offload else 0,
        )

    def _layer_parameters(self) -> int:
        """Of the layers, without embedding and head."""
        experts = rank_expert_parameters(self.architecture, parallel=self.parallel, rank=self.rank)
        return self._layers * _layer(self.architecture) // self.parallel.tp + experts

    @property
    def tokens(self) -> int:
        """Of a microbatch, on one rank."""
        return -(-self.data.sequence_length * self.data.micro_batch_size // self.parallel.cp)

    @property
    def chunk_layers(self) -> int:
        """Layers of a virtual stage."""
        return self._layers // self.parallel.vpp

    @property
    def _layers(self) -> int:
        return stage_layers(self.architecture.num_layers, parallel=self.parallel)[self.rank]

    def _whole_states(self) -> tuple[int, int, int]:
        shared = rank_parameters(self.architecture, parallel=self.parallel, rank=self.rank)
        experts = rank_expert_parameters(self.architecture, parallel=self.parallel, rank=self.rank)
        updated = shared + experts
        if self.parallel.distributed_optimizer:
            shards = self.parallel.cp * self.parallel.dp
            updated = shared // shards + experts // expert_replicas(self.parallel)
        return (
            (shared + experts) * value_bytes(self.dtype),
            (shared + experts) * GRADIENT_BYTES,
            updated * (ADAM_BYTES + master_bytes(self.dtype)),
        )

    def _cut_states(self) -> tuple[int, int, int]:
        """ZeRO-3: fp32 shards, and gathered copies of the tables and of two layers."""
        shared = rank_parameters(self.architecture, parallel=self.parallel)
        experts = rank_expert_parameters(self.architecture, parallel=self.parallel)
        shard = -(-(shared + experts) // (self.parallel.cp * self.parallel.dp))
        layer = _layer(self.architecture) // self.parallel.tp + experts // self._layers
        tables = _tables(self.architecture, parallel=self.parallel, rank=0) // self.parallel.tp
        gathered = (tables + 2 * layer) * value_bytes(self.dtype)
        return shard * MASTER_BYTES + gathered, shard * GRADIENT_BYTES, shard * ADAM_BYTES

    def _activations(self) -> float:
        """Bytes a token: of every layer in flight what the backward pass will need, and while it
        runs a layer's that it computes again."""
        layer, recomputed = self._layer_activations(), self._recomputed_layers()
        kept = self.chunk_layers - recomputed
        again = layer if recomputed else 0.0
        return self._chunks_in_flight() * (kept * layer + recomputed * self._layer_input()) + again

    def _chunks_in_flight(self) -> int:
        """Forward passes of virtual stages before the first backward pass, at most."""
        data, parallel, ahead = self.data, self.parallel, self.parallel.pp - 1 - self.rank
        microbatches = data.global_batch_size // (data.micro_batch_size * parallel.dp)
        if parallel.vpp == 1:
            return min(ahead + 1, microbatches)
        warmup = 2 * ahead + (parallel.vpp - 1) * parallel.pp
        return min(warmup + 1, microbatches * parallel.vpp)

    def _recomputed_layers(self) -> int:
        """Of a virtual stage. Recomputing attention alone saves nothing counted here: its scores
        are not kept, and its result is what the next layer needs."""
        if self.parallel.recompute is not Recompute.full:
            return 0
        return min(self.parallel.recompute_layers or self.chunk_layers, self.chunk_layers)

    def _layer_activations(self) -> float:
        """34 bytes a token and hidden unit; 10 of them are cut over tp only with sequence
        parallelism."""
        uncut = 10 / (self.parallel.tp if self.parallel.sequence_parallel else 1)
        dense = (uncut + 24 / self.parallel.tp) * self.architecture.hidden_size
        return dense + self._expert_activations()

    def _layer_input(self) -> float:
        cut = self.parallel.tp if self.parallel.sequence_parallel else 1
        return 2 * self.architecture.hidden_size / cut

    def _expert_activations(self) -> float:
        """Bytes a token in place of the MLP's 19 a hidden unit: for each of its experts, its copy
        sent there and the one sent back, and of the expert's three inner vectors this rank's
        part."""
        architecture, tp = self.architecture, self.parallel.tp
        if architecture.experts is None:
            return 0.0
        hidden, inner = architecture.hidden_size, architecture.ffn_hidden_size
        copy = 4 * hidden + 6 * inner / expert_tensor_ranks(self.parallel)
        return architecture.experts.per_token * copy / tp - 19 * hidden / tp

    def _logits(self) -> int:
        """The logits, their fp32 copy and its gradient."""
        columns = -(-self.architecture.vocab_size // self.parallel.tp)
        return self.tokens * columns * (8 + value_bytes(self.dtype))
