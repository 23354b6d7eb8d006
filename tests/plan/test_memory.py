# SPDX-License-Identifier: Apache-2.0
"""What each layout saves on the fullest rank, by the formulas of the papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import (
    AdapterConfig,
    AdapterMethod,
    BaseWeights,
    DataConfig,
    Dtype,
    Optimizer,
    ParallelConfig,
    Recompute,
)
from megacpt.families.counts import num_parameters
from megacpt.families.targets import with_adapter
from megacpt.plan.memory import RankMemory, checkpoint_bytes, rank_memory, rank_parameters
from tests.plan.test_check import ARCHITECTURE

DATA = DataConfig(sequence_length=1024, global_batch_size=32)
TOKEN_LAYER_BYTES = 34 * ARCHITECTURE.hidden_size


def memory_of(
    offload: bool = False,
    optimizer: Optimizer = Optimizer.adamw,
    packing: BaseWeights | None = None,
    **layout: Any,
) -> RankMemory:
    return rank_memory(
        ARCHITECTURE,
        data=DATA,
        parallel=ParallelConfig(**layout),
        dtype=Dtype.bf16,
        optimizer=optimizer,
        offload=offload,
        packing=packing,
    )


def test_stages_of_any_split_cover_the_model_with_a_tied_table_twice() -> None:
    table = ARCHITECTURE.vocab_size * ARCHITECTURE.hidden_size
    for layout in (
        {"pp": 3},
        {"pp": 3, "first_stage_layers": 4},
        {"pp": 4, "last_stage_layers": 3},
    ):
        parallel = ParallelConfig(**layout)
        parts = [
            rank_parameters(ARCHITECTURE, parallel=parallel, rank=n) for n in range(parallel.pp)
        ]
        assert sum(parts) == num_parameters(ARCHITECTURE) + table


def test_context_parallelism_cuts_what_grows_with_the_sample() -> None:
    single, cut = memory_of(), memory_of(cp=4)
    assert cut.activations == single.activations // 4
    assert cut.logits == single.logits // 4
    assert cut.weights == single.weights
    assert memory_of(cp=4, distributed_optimizer=True).optimizer == single.optimizer // 4


def test_full_recomputation_keeps_one_vector_a_layer() -> None:
    kept, again = ARCHITECTURE.num_layers * 2 * ARCHITECTURE.hidden_size, TOKEN_LAYER_BYTES
    assert memory_of().activations == 1024 * ARCHITECTURE.num_layers * TOKEN_LAYER_BYTES
    assert memory_of(recompute=Recompute.full).activations == 1024 * (kept + again)
    some = memory_of(recompute=Recompute.full, recompute_layers=10).activations
    assert memory_of(recompute=Recompute.full).activations < some < memory_of().activations


@pytest.mark.parametrize(
    ("layout", "layers_in_flight"),
    [
        ({"pp": 2}, 2 * 15),
        # With vpp=v the first rank has run p(v-1) + 2(p-1) + 1 chunks of 30/(pv) layers.
        ({"pp": 2, "vpp": 3}, 7 * 5),
        ({"pp": 5, "vpp": 2}, 14 * 3),
    ],
)
def test_microbatches_in_flight(layout: dict[str, int], layers_in_flight: int) -> None:
    # A narrow vocabulary, or the last stage with its logits would be the fullest.
    architecture = replace(ARCHITECTURE, vocab_size=16)
    memory = rank_memory(
        architecture, data=DATA, parallel=ParallelConfig(**layout), dtype=Dtype.bf16
    )
    assert memory.activations == 1024 * layers_in_flight * TOKEN_LAYER_BYTES


def test_a_short_last_stage_makes_room_for_the_logits() -> None:
    assert memory_of(pp=2, last_stage_layers=14).total < memory_of(pp=2).total


def test_sharded_weights_cut_all_states() -> None:
    whole, cut = memory_of(dp=8), memory_of(dp=8, sharded_weights=True)
    assert cut.gradients == whole.gradients // 8
    assert cut.optimizer == num_parameters(ARCHITECTURE) * 8 // 8
    assert cut.weights < whole.weights


def test_offloaded_state_is_in_host_memory() -> None:
    here, there = memory_of(), memory_of(offload=True)
    assert (there.optimizer, there.host_optimizer) == (0, here.optimizer)
    assert there.total == here.total - here.optimizer


def test_muon_keeps_one_moment_of_a_matrix_and_two_of_all_else() -> None:
    layers, hidden = ARCHITECTURE.num_layers, ARCHITECTURE.hidden_size
    others = ARCHITECTURE.vocab_size * hidden + (2 * layers + 1) * hidden
    matrices = num_parameters(ARCHITECTURE) - others
    moments = 4 * matrices + 8 * others
    muon = memory_of(optimizer=Optimizer.muon)
    assert muon.optimizer == moments + 4 * num_parameters(ARCHITECTURE)
    assert replace(muon, optimizer=0) == replace(memory_of(), optimizer=0)
    for dtype, weights in ((Dtype.fp32, 4), (Dtype.bf16, 6)):
        found = checkpoint_bytes(ARCHITECTURE, dtype=dtype, optimizer=Optimizer.muon)
        assert found == moments + weights * num_parameters(ARCHITECTURE)


LORA = with_adapter(ARCHITECTURE, settings=AdapterConfig())
TRAINED = 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))


def adapted_memory(settings: AdapterConfig, **layout: Any) -> RankMemory:
    return rank_memory(
        with_adapter(ARCHITECTURE, settings=settings),
        data=DATA,
        parallel=ParallelConfig(**layout),
        dtype=Dtype.bf16,
        packing=settings.base,
    )


def test_what_an_adapter_leaves_frozen_takes_its_weights_alone() -> None:
    memory = adapted_memory(AdapterConfig())
    assert memory.weights == 2 * (num_parameters(ARCHITECTURE) + TRAINED)
    assert memory.gradients == 4 * TRAINED
    assert memory.optimizer == 12 * TRAINED
    table = 49152 * 576
    with_table = adapted_memory(AdapterConfig(train_embedding=True))
    assert with_table.gradients == 4 * (TRAINED + table)
    assert with_table.weights == memory.weights


def test_factors_without_the_cut_dimension_lie_on_every_rank() -> None:
    whole = 30 * 16 * (5 * 576 + 2 * 576)
    memory = adapted_memory(AdapterConfig(), tp=3)
    assert memory.gradients == 4 * (whole + (TRAINED - whole) // 3)


def test_a_packed_base_takes_its_packed_bytes() -> None:
    layers = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    others = 2 * (num_parameters(ARCHITECTURE) - layers + TRAINED)
    nf4 = adapted_memory(AdapterConfig(base=BaseWeights.nf4))
    assert nf4.weights == others + layers // 2 + 4 * layers // 64
    # Both factors' cut parts and their whole ones, and of all else half.
    half = adapted_memory(AdapterConfig(base=BaseWeights.nf4), tp=2).weights
    assert nf4.weights / 2 < half < 0.6 * nf4.weights
    assert adapted_memory(AdapterConfig(base=BaseWeights.int8)).weights > nf4.weights


def test_layers_below_all_that_learns_keep_nothing() -> None:
    whole, upper = (adapted_memory(AdapterConfig(layers=n)) for n in (None, "20-29"))
    low_rank = 2 * 7 * 16
    assert whole.activations == 1024 * 30 * (TOKEN_LAYER_BYTES + low_rank)
    assert upper.activations == 1024 * 10 * (TOKEN_LAYER_BYTES + low_rank)
    again = adapted_memory(AdapterConfig(layers="20-29"), recompute=Recompute.full)
    assert again.activations > memory_of(recompute=Recompute.full).activations


def test_a_checkpoint_holds_what_learns_and_the_adapter_s_frozen_factors() -> None:
    assert checkpoint_bytes(LORA, dtype=Dtype.bf16) == 14 * TRAINED
    assert checkpoint_bytes(LORA, dtype=Dtype.fp32) == 12 * TRAINED
    cores = AdapterConfig(method=AdapterMethod.lora_xs)
    frozen = with_adapter(ARCHITECTURE, settings=cores)
    assert checkpoint_bytes(frozen, dtype=Dtype.bf16) == 14 * 30 * 7 * 16 * 16 + 2 * TRAINED


@pytest.mark.parametrize("layout", [{}, {"tp": 3}, {"pp": 3}, {"tp": 3, "pp": 3}])
def test_packed_matrices_take_nine_sixteenths_of_a_byte_each(layout: dict[str, int]) -> None:
    """Of 4 bits and, a block of 64, a scale of 4 bytes; int8 takes a byte and a scale a row."""
    ranks = layout.get("tp", 1) * layout.get("pp", 1)
    matrices = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    rows = 30 * (576 + 2 * 192 + 576 + 2 * 1536 + 576)
    whole = memory_of(**layout)
    nf4, int8 = (memory_of(packing=packing, **layout) for packing in BaseWeights)
    assert (whole.weights - nf4.weights) * ranks == matrices * (2 - 9 / 16)
    assert (whole.weights - int8.weights) * ranks == matrices - 4 * rows
    assert (nf4.activations, nf4.logits) == (whole.activations, whole.logits)
