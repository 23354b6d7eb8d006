# SPDX-License-Identifier: Apache-2.0
"""Bytes of the fullest rank and of a checkpoint, from the shape of the model and the layout.

Activations follow Korthikanti et al., section 4 (https://arxiv.org/abs/2205.05198) with the
attention scores left out, because attention is computed in blocks; 16-bit values there, so fp32
counts twice. An estimate: allocator slack and communication buffers are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from megacpt.config.sections import (
    BaseWeights,
    DataConfig,
    Dtype,
    Optimizer,
    ParallelConfig,
    Recompute,
)
from megacpt.families import param_rows, table_row
from megacpt.families.adapter import A, adapter_rows, is_trained
from megacpt.families.architecture import Architecture
from megacpt.families.counts import first_trained_layer
from megacpt.families.packing import is_packed, packed_bytes
from megacpt.families.weights import ADAPTER_ROLES, Param, Role
from megacpt.plan.layers_per_stage import layers_of_rank
from megacpt.plan.optimizers import OPTIMIZERS
from megacpt.plan.rules.experts import expert_tensor_ranks

GRADIENT_BYTES = 4
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
    optimizer: Optimizer = Optimizer.adamw,
    offload: bool = False,
    weight_copy_bytes: int = 0,
    packing: BaseWeights | None = None,
) -> RankMemory:
    """Of the fullest pipeline rank; ``packing``: of frozen weights. Assumes that
    megacpt.plan.rules.parallel found nothing."""
    stages = (
        _Stage(
            architecture=architecture,
            data=data,
            parallel=parallel,
            dtype=dtype,
            optimizer=optimizer,
            rank=rank,
            packing=packing,
            weight_copy_bytes=weight_copy_bytes,
        )
        for rank in range(parallel.pp)
    )
    return max((stage.memory(offload=offload) for stage in stages), key=lambda m: m.total)


def rank_parameters(architecture: Architecture, *, parallel: ParallelConfig, rank: int = 0) -> int:
    """Parameters of a pipeline rank's share, those of experts left out.

    With one stage both tables are on it; a tied table lies on first and last stage.
    """
    values = _values(architecture, parallel=parallel, rank=rank, experts=False)
    return sum(values.values())


def _values(
    architecture: Architecture,
    *,
    parallel: ParallelConfig,
    rank: int,
    experts: bool,
    counts: Callable[[Param], bool] = lambda _: True,
) -> dict[Role, int]:
    """What a rank holds by role: of the experts, or of all else; ``counts``: of which rows. Norms,
    of which there are few, count as cut."""
    layers = layers_of_rank(architecture.num_layers, parallel=parallel, rank=rank)
    held: dict[tuple[Role, int], int] = {}
    for row in _held_rows(architecture, parallel=parallel, rank=rank):
        if row.per_expert is experts and counts(row):
            key = row.role, _parts(row, parallel=parallel)
            held[key] = held.get(key, 0) + row.num_values(architecture, layers=layers)
    values = dict.fromkeys((role for role, _ in held), 0)
    for (role, parts), num in held.items():
        values[role] += -(-num // parts)
    return values


def _parts(row: Param, *, parallel: ParallelConfig) -> int:
    """Equal ones, one on each of several ranks. A factor of an adapter that has not the dimension
    that is cut lies whole on each."""
    whole = row.of_adapter and row.tp_dim is None
    if row.per_expert:
        return parallel.ep * (1 if whole else expert_tensor_ranks(parallel))
    return 1 if whole else parallel.tp


def _held_rows(
    architecture: Architecture, *, parallel: ParallelConfig, rank: int
) -> Iterator[Param]:
    is_first, is_last = rank == 0, rank == parallel.pp - 1
    for row in (*param_rows(architecture), *adapter_rows(architecture)):
        if row.per_layer or (is_first if row.role is Role.embedding else is_last):
            yield row
    if architecture.tied_embeddings and is_last and not is_first:
        yield table_row(architecture, role=Role.embedding)


def expert_replicas(parallel: ParallelConfig) -> int:
    """Ranks of a stage that hold the same part of the same experts."""
    ranks = parallel.tp * parallel.cp * parallel.dp
    return ranks // (parallel.ep * expert_tensor_ranks(parallel))


def value_bytes(dtype: Dtype) -> int:
    return 4 if dtype is Dtype.fp32 else 2


def master_bytes(dtype: Dtype) -> int:
    """bf16 keeps a second, fp32 copy of the weights."""
    return 0 if dtype is Dtype.fp32 else MASTER_BYTES


def checkpoint_bytes(
    architecture: Architecture, *, dtype: Dtype, optimizer: Optimizer = Optimizer.adamw
) -> int:
    """Weights, master weights and the optimizer's moments, once over all ranks; with an adapter its
    frozen factors and what learns."""
    state_bytes, master = OPTIMIZERS[optimizer].state_bytes, master_bytes(dtype)
    total = 0
    for row in (*param_rows(architecture), *adapter_rows(architecture)):
        learns = architecture.adapter is None or is_trained(row, architecture=architecture)
        if learns or row.of_adapter:
            state = master + state_bytes(row.role) if learns else 0
            total += row.num_values(architecture) * (value_bytes(dtype) + state)
    return total


def _in_layers(architecture: Architecture, *, layers: Collection[int]) -> int:
    """Parameters of these layers, their experts left out."""
    return sum(
        row.num_values(architecture, layers=layers)
        for row in param_rows(architecture)
        if row.per_layer and not row.per_expert
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One pipeline rank."""

    architecture: Architecture
    data: DataConfig
    parallel: ParallelConfig
    dtype: Dtype
    optimizer: Optimizer
    rank: int
    packing: BaseWeights | None
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
        """All of the layers, without embedding and head."""
        shared = _in_layers(self.architecture, layers=self._layers) // self.parallel.tp
        of_experts = self._values(experts=True).items()
        return shared + sum(num for role, num in of_experts if role not in ADAPTER_ROLES)

    def _values(
        self, *, experts: bool, counts: Callable[[Param], bool] = lambda _: True
    ) -> Mapping[Role, int]:
        return _values(
            self.architecture,
            parallel=self.parallel,
            rank=self.rank,
            experts=experts,
            counts=counts,
        )

    def _held(self, counts: Callable[[Param], bool]) -> tuple[Mapping[Role, int], ...]:
        """Of experts and of all else."""
        return tuple(self._values(experts=experts, counts=counts) for experts in (False, True))

    def _state_bytes(self, values: Mapping[Role, int], *, master: int) -> int:
        """What the optimizer keeps of them; ``master``: bytes of the fp32 copy of a value."""
        row = OPTIMIZERS[self.optimizer]
        return sum(num * (row.state_bytes(role) + master) for role, num in values.items())

    @property
    def tokens(self) -> int:
        """Of a microbatch, on one rank."""
        return -(-self.data.sequence_length * self.data.micro_batch_size // self.parallel.cp)

    @property
    def chunk_layers(self) -> int:
        """Layers of a virtual stage."""
        return len(self._layers) // self.parallel.vpp

    @property
    def _layers(self) -> tuple[int, ...]:
        return layers_of_rank(self.architecture.num_layers, parallel=self.parallel, rank=self.rank)

    def _whole_states(self) -> tuple[int, int, int]:
        plain = sum(sum(values.values()) for values in self._held(lambda r: not self._packs(r)))
        values, of_experts = self._held(partial(is_trained, architecture=self.architecture))
        learns = sum(values.values()) + sum(of_experts.values())
        master = master_bytes(self.dtype)
        state = self._state_bytes(values, master=master)
        expert_state = self._state_bytes(of_experts, master=master)
        if self.parallel.distributed_optimizer:
            state //= self.parallel.cp * self.parallel.dp
            expert_state //= expert_replicas(self.parallel)
        weights = plain * value_bytes(self.dtype) + self._packed_bytes()
        return weights, learns * GRADIENT_BYTES, state + expert_state

    def _packs(self, row: Param) -> bool:
        return self.packing is not None and is_packed(row)

    def _packed_bytes(self) -> int:
        """Of the frozen weights that are kept in few bits."""
        if self.packing is None:
            return 0
        return sum(
            packed_bytes(
                row, architecture=self.architecture, packing=self.packing, layers=self._layers
            )
            // _parts(row, parallel=self.parallel)
            for row in param_rows(self.architecture)
            if is_packed(row)
        )

    def _cut_states(self) -> tuple[int, int, int]:
        """ZeRO-3, dense models only: fp32 shards, and gathered copies of the tables and of two
        layers."""
        values, shards = self._values(experts=False), self.parallel.cp * self.parallel.dp
        shard = -(-sum(values.values()) // shards)
        tables = sum(values.get(role, 0) for role in (Role.embedding, Role.head))
        largest = max(_in_layers(self.architecture, layers=(n,)) for n in self._layers)
        layers = 2 * (largest // self.parallel.tp)
        gathered = (tables + layers) * value_bytes(self.dtype)
        state = -(-self._state_bytes(values, master=0) // shards)
        return shard * MASTER_BYTES + gathered, shard * GRADIENT_BYTES, state

    def _activations(self) -> float:
        """Bytes a token: of every layer in flight what the backward pass will need, and while it
        runs a layer's that it computes again."""
        layer, recomputed = self._layer_activations(), self._recomputed_layers()
        kept = self.chunk_layers - recomputed
        again = layer if recomputed else 0.0
        # What lies below all that learns is not kept.
        kept -= min(kept, self._idle_layers())
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

    def _idle_layers(self) -> int:
        """Of a virtual stage, mean; the first layers of all, where nothing below them learns. One
        that is computed again has its input kept all the same, and with it all above."""
        if self.parallel.recompute is Recompute.full:
            return 0
        first = first_trained_layer(self.architecture)
        return len([n for n in self._layers if n < first]) // self.parallel.vpp

    def _layer_activations(self) -> float:
        """34 bytes a token and hidden unit; 10 of them, 4 for the inputs of two norms, are cut over
        tp only with sequence parallelism."""
        norms = self.architecture.norms
        num_norms = 2 * norms.before + 2 * norms.after - self.architecture.parallel_mlp
        uncut = (6 + 2 * num_norms) / (self.parallel.tp if self.parallel.sequence_parallel else 1)
        dense = (uncut + 24 / self.parallel.tp) * self.architecture.hidden_size
        return dense + self._expert_activations() + self._low_rank_activations()

    def _low_rank_activations(self) -> float:
        """What an adapter's first factors make of a token, mean over the layers that have one."""
        values, adapted = 0, set[int]()
        for row in adapter_rows(self.architecture):
            if row.native.endswith(f".{A}"):
                width = sum(source.shape(self.architecture)[0] for source in row.sources)
                layers = set(row.layers(self.architecture)).intersection(self._layers)
                experts = self.architecture.experts if row.per_expert else None
                values += len(layers) * width * (experts.per_token if experts else 1)
                adapted |= layers
        return 2 * values / len(adapted) if adapted else 0.0

    def _layer_input(self) -> float:
        cut = self.parallel.tp if self.parallel.sequence_parallel else 1
        return 2 * self.architecture.hidden_size / cut

    def _expert_activations(self) -> float:
        """Bytes a token in place of the MLP's 19 a hidden unit, mean over the layers: for each of
        its experts, its copy sent there and the one sent back, and of the expert's three inner
        vectors this rank's part; the same of shared experts, whose result alone is another."""
        architecture, tp = self.architecture, self.parallel.tp
        experts = architecture.experts
        if experts is None:
            return 0.0
        hidden, inner = architecture.hidden_size, architecture.ffn_hidden_size
        copy = 4 * hidden + 6 * inner / expert_tensor_ranks(self.parallel)
        layer = experts.per_token * copy - 19 * hidden
        if experts.shared_ffn_hidden_size is not None:
            layer += 2 * hidden + 6 * experts.shared_ffn_hidden_size
        share = sum(map(architecture.has_experts, self._layers)) / len(self._layers)
        return share * layer / tp

    def _logits(self) -> int:
        """The logits, their fp32 copy and its gradient."""
        columns = -(-self.architecture.vocab_size // self.parallel.tp)
        return self.tokens * columns * (8 + value_bytes(self.dtype))
