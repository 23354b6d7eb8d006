# SPDX-License-Identifier: Apache-2.0
"""The settings that megacpt sft begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megacpt.config.sections import (
    AdapterConfig,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    HeldoutConfig,
    LoadConfig,
    Objective,
    Packing,
    ParallelConfig,
    RunConfig,
    SourceConfig,
)
from megacpt.plan.tuning import SftRequest, tuned

RUN = RunConfig(
    run_dir="/runs/law",
    data=DataConfig(
        sources={"law": SourceConfig(prefix="/data/law")},
        sequence_length=1000,
        global_batch_size=64,
        micro_batch_size=2,
    ),
    evaluate=EvaluateConfig(
        heldout={"web": HeldoutConfig(prefix="/data/web")},
        general="web",
        gate=GateConfig(general_perplexity_ratio_max=1.1),
    ),
)
TUNING = SftRequest(run_dir=Path("/runs/law-sft"), shard=Path("/data/chat"), tokens=10_000_000)


def test_what_is_learned_and_what_it_begins_with() -> None:
    new = tuned(RUN, tuning=TUNING)
    assert new.objective is Objective.sft
    assert new.run_dir == "/runs/law-sft"
    assert new.data.sources == {"chat": SourceConfig(prefix="/data/chat")}
    assert new.data.packing is Packing.best_fit
    assert new.data.document_mask
    assert new.checkpoint.load_from == "/runs/law"
    assert new.checkpoint.load == LoadConfig(weights=True)
    assert tuned(RUN, tuning=replace(TUNING, from_base=True)).checkpoint.load_from is None


@pytest.mark.parametrize(
    ("tokens", "dp", "size"),
    [
        (10_000_000, 1, 32),
        (300_000, 1, 12),
        (10_000, 1, 2),
        (10_000, 4, 8),
        (10_000_000, 3, 30),
    ],
)
def test_a_batch_holds_whole_microbatches_and_an_epoch_enough_steps(
    tokens: int, dp: int, size: int
) -> None:
    run = replace(RUN, parallel=ParallelConfig(dp=dp))
    assert tuned(run, tuning=replace(TUNING, tokens=tokens)).data.global_batch_size == size


def test_rates_of_all_weights_and_of_an_adapter() -> None:
    adapted = replace(RUN, adapter=AdapterConfig(rank=8, load_from="/their/lora"))
    new = tuned(adapted, tuning=TUNING)
    assert tuned(RUN, tuning=TUNING).optim.lr_peak == 1e-5
    assert new.optim.lr_peak == 1e-4
    assert new.adapter == AdapterConfig(rank=8)


def test_what_was_measured_goes_on_to_be_and_its_gate_does_not() -> None:
    new = tuned(RUN, tuning=replace(TUNING, heldout=Path("/data/held"))).evaluate
    assert list(new.heldout) == ["web", "chat"]
    assert (new.general, new.domain) == ("web", "chat")
    assert new.gate == GateConfig()
    assert tuned(RUN, tuning=TUNING).evaluate.domain is None


def test_context_parallelism_goes_without_a_document_mask() -> None:
    run = replace(RUN, parallel=ParallelConfig(cp=2))
    assert not tuned(run, tuning=TUNING).data.document_mask
