# SPDX-License-Identifier: Apache-2.0
"""A run begins with another's weights, optimizer, schedule and data: each of them, or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.parity import LOSS_RTOL, write_run_inputs

TRAIN_ALL = "tests.train.warm_starts:train_all"
SAVED_AT, STEPS = 3, 6
pytestmark = [pytest.mark.mcore, pytest.mark.slow]


ADAPTER = {"method": "dora", "rank": 4, "train_embedding": True}


def settings(
    work: Path,
    *parts: str,
    of: str = "source",
    steps: int = STEPS,
    lr_peak: float = 3e-3,
    **others: Any,
) -> dict[str, Any]:
    """A run that begins with ``parts`` of the checkpoint of run ``of`` at SAVED_AT."""
    taken = {name: name in parts for name in ("weights", "optimizer", "schedule", "data")}
    source = work / of / "checkpoints" / f"step_{SAVED_AT:08d}"
    return {
        **others,
        "evaluate": {"heldout": {"late": {"prefix": str(work / "late")}}, "domain": "late"},
        "schedule": {"steps": steps, "warmup_steps": 1, "shape": "constant"},
        "optim": {"lr_peak": lr_peak},
        "data": {"micro_batch_size": 2},
        "checkpoint": {
            "every_steps": SAVED_AT,
            "keep_last": 9,
            **({"load_from": str(source), "load": taken} if parts else {}),
        },
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("warm")
    write_run_inputs(work, tied=False)
    everything = ("weights", "optimizer", "schedule", "data")
    own_schedule_data = settings(work, "weights", "schedule")
    alone = {
        "source": settings(work),
        "fork": settings(work, *everything),
        "no-optimizer": settings(work, "weights", "schedule", "data"),
        "weights": settings(work, "weights", steps=2, lr_peak=1e-3),
        "weights-data": settings(work, "weights", "data", steps=2),
        "weights-schedule": own_schedule_data,
        "weights-schedule again": settings(work, "weights", "schedule", steps=STEPS + 2),
        "weights-schedule-whole": settings(work, "weights", "schedule", steps=STEPS + 2),
        "data": settings(work, "data", steps=2),
        "adapter": settings(work, adapter=ADAPTER),
        "adapter-fork": settings(work, *everything, of="adapter", adapter=ADAPTER),
        "adapter-weights": settings(work, "weights", of="adapter", adapter=ADAPTER, steps=2),
    }
    run_on_ranks(TRAIN_ALL, work, world=1, cases=alone)
    zero3 = {"parallel": {"dp": 2, "sharded_weights": True}}
    zero1 = {"parallel": {"dp": 2, "distributed_optimizer": True}, "precision": {"dtype": "bf16"}}
    together = {
        "fork-zero3": settings(work, *everything, **zero3),
        "weights-zero1-bf16": settings(work, "weights", steps=2, lr_peak=1e-3, **zero1),
    }
    run_on_ranks(TRAIN_ALL, work, world=2, cases=together)
    return work


def records(work: Path, name: str) -> list[dict[str, Any]]:
    lines = (work / name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["step"] > 0]


def column(work: Path, name: str, key: str = "loss") -> list[float]:
    return [record[key] for record in records(work, name)]


def test_with_all_parts_it_is_the_same_run(work: Path) -> None:
    assert column(work, "fork", "step") == [4, 5, 6]
    for key in ("loss", "grad_norm", "lr"):
        assert column(work, "fork", key) == column(work, "source", key)[SAVED_AT:]


def test_in_another_layout_too(work: Path) -> None:
    found, expected = column(work, "fork-zero3"), column(work, "source")[SAVED_AT:]
    np.testing.assert_allclose(found, expected, rtol=LOSS_RTOL)


def test_an_adapter_goes_on_in_another_run(work: Path) -> None:
    assert column(work, "adapter", "loss") != column(work, "source", "loss")
    assert column(work, "adapter-fork", "step") == [4, 5, 6]
    for key in ("loss", "grad_norm", "lr"):
        assert column(work, "adapter-fork", key) == column(work, "adapter", key)[SAVED_AT:]
    assert column(work, "adapter-weights")[0] < column(work, "adapter")[0]


def test_the_optimizer_is_new_unless_it_is_taken(work: Path) -> None:
    found, expected = column(work, "no-optimizer"), column(work, "source")[SAVED_AT:]
    assert found[0] == expected[0]
    assert abs(found[2] / expected[2] - 1) > 100 * LOSS_RTOL


def test_weights_alone_begin_a_run_of_their_own(work: Path) -> None:
    record = records(work, "weights")[0]
    assert record["step"] == 1
    assert record["lr"] == pytest.approx(1e-3), "the new run's rate"
    assert record["loss"] < column(work, "source")[0], "on the samples that the source saw first"


def test_weights_are_taken_across_precisions(work: Path) -> None:
    found, expected = column(work, "weights-zero1-bf16"), column(work, "weights")
    assert found == pytest.approx(expected, rel=2e-3)


def test_data_goes_on_although_the_schedule_begins(work: Path) -> None:
    found = records(work, "weights-data")
    assert [record["step"] for record in found] == [1, 2]
    assert [record["lr"] for record in found] == column(work, "source", "lr")[:2]
    # The same samples in another order within the batch.
    expected = column(work, "source")[SAVED_AT]
    assert found[0]["loss"] == pytest.approx(expected, rel=LOSS_RTOL)


def test_data_begins_although_the_schedule_goes_on(work: Path) -> None:
    found = records(work, "weights-schedule-whole")
    assert [record["step"] for record in found] == [4, 5, 6, 7, 8]
    assert [record["lr"] for record in found][:3] == column(work, "source", "lr")[SAVED_AT:]
    assert found[0]["loss"] == pytest.approx(column(work, "weights")[0], rel=LOSS_RTOL)


def test_such_a_run_resumes_from_its_own_checkpoint(work: Path) -> None:
    found, whole = (records(work, f"weights-schedule{name}") for name in ("", "-whole"))
    for key in ("step", "loss", "grad_norm", "samples_per_source"):
        assert [r[key] for r in found] == [r[key] for r in whole]
    assert sum(found[-1]["samples_per_source"].values()) == 8 * 5, "none of the source's"


def test_data_alone_leaves_the_base_model(work: Path) -> None:
    assert column(work, "data")[0] > column(work, "source")[SAVED_AT]


@pytest.mark.parametrize("name", ["weights", "fork", "fork-zero3", "adapter-weights"])
def test_gain_is_told_against_the_base_model(work: Path, name: str) -> None:
    """Step 0 is ``model.path``, whatever weights the run begins with."""
    found, expected = (heldout(work, run) for run in (name, "source"))
    assert found[0] == pytest.approx(expected[0], rel=LOSS_RTOL)
    assert found[-1] < found[0]


def heldout(work: Path, name: str) -> list[float]:
    lines = (work / name / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "heldout" in record]
    assert records[0]["step"] == 0
    return [record["heldout"]["late"]["loss"] for record in records]


def test_the_source_is_remembered(work: Path) -> None:
    content = json.loads((work / "fork" / "warm_start.json").read_text())
    assert content["step"] == SAVED_AT
    assert not (work / "source" / "warm_start.json").exists()
