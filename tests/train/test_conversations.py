# SPDX-License-Identifier: Apache-2.0
"""objective=sft learns what TRL's trainer learns of the same rows, on every layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacpt.config.paths import source_shards
from megacpt.samples.training_data import TrainingData
from tests.train.chats import SFT, conversations, write_inputs
from tests.train.curves import STEPS, parity_config
from tests.train.parity import assert_same_curve, train_curves
from tests.train.trl_twin import trl_losses

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

TRL_ATOL = 1e-5
"""fp32 on both sides; twenty steps of AdamW amplify sums in another order to some 1e-6."""


def case(**changes: Any) -> dict[str, Any]:
    data = SFT["data"] | changes.pop("data", {})
    return SFT | changes | {"data": data}


TOGETHER = {"document_mask": False}
"""Context parallelism has no document mask."""
CURVES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "single": case(),
        "together": case(data=TOGETHER),
        "pretraining": case(objective="pretraining"),
        "lora": case(adapter={"rank": 4}),
    },
    2: {
        "tp2": case(parallel={"tp": 2, "sequence_parallel": True}),
        "pp2": case(parallel={"pp": 2}),
        "dp2": case(parallel={"dp": 2}, data={"micro_batch_size": 2}),
        "cp2": case(parallel={"cp": 2}, data=TOGETHER),
        "lora-tp2": case(parallel={"tp": 2}, adapter={"rank": 4}),
    },
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("chats")
    write_inputs(work)
    return work


@pytest.fixture(scope="module")
def curves(work: Path) -> dict[str, np.ndarray]:
    return train_curves(work, CURVES)


@pytest.mark.parametrize(
    ("layout", "alone"),
    [
        ("tp2", "single"),
        ("pp2", "single"),
        ("dp2", "single"),
        ("cp2", "together"),
        ("lora-tp2", "lora"),
    ],
)
def test_layout_equals_single_rank(layout: str, alone: str, curves: dict[str, np.ndarray]) -> None:
    assert_same_curve(curves[layout], curves[alone])


def test_replies_alone_are_learned(curves: dict[str, np.ndarray]) -> None:
    """Of text, the second source, the first step sees the same under both objectives."""
    sft, all_of_it = curves["single"], curves["pretraining"]
    assert abs(sft[0, 2] - all_of_it[0, 2]) > 0.01
    np.testing.assert_allclose(sft[0, 3], all_of_it[0, 3], rtol=1e-6)
    assert sft[-1, 2] < sft[0, 2] - 0.5


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
def test_losses_equal_trl(work: Path, curves: dict[str, np.ndarray]) -> None:
    config = parity_config(work, case())
    rows = rows_of(config, steps=STEPS)
    found = trl_losses(work, rows=rows, template="plain", lr=config.optim.lr_peak)
    np.testing.assert_allclose(curves["single"][:, 0], found, atol=TRL_ATOL, rtol=0)


def rows_of(config: Any, *, steps: int) -> list[list[list[dict[str, str]] | str]]:
    """Conversations, or texts, of each row of each global batch, in the run's order."""
    data = TrainingData.open(
        config.data, seed=config.seed, shards=source_shards(config), replies_only=True
    )
    chats = conversations(120)
    texts = [" ".join(m["content"] for m in chat) for chat in conversations(60, seed=1)]
    said = {0: chats, 1: texts}
    return [
        [said[row.source_id][row.shard.document_at(int(start))[0]] for start in row.starts]
        for step in range(steps)
        for row in data.rows(step, positions=range(data.batch_size(step)))
    ]


def test_an_interrupted_run_goes_on_with_the_same_samples(work: Path) -> None:
    config = parity_config(work, case())
    shards = source_shards(config)

    def opened(record: Any = None) -> TrainingData:
        return TrainingData.open(
            config.data, seed=config.seed, shards=shards, record=record, replies_only=True
        )

    whole = opened()
    resumed = opened(whole.record(7))
    for step in (7, 8, 19):
        one, other = (d.load(step, positions=range(8)) for d in (whole, resumed))
        np.testing.assert_array_equal(one.tokens_BS, other.tokens_BS)
        np.testing.assert_array_equal(one.loss_mask_BS, other.loss_mask_BS)
    assert 0 < one.loss_mask_BS.mean() < 0.9


def test_a_run_does_not_go_on_under_another_objective(work: Path) -> None:
    from megacpt.errors import DataError

    config = parity_config(work, case())
    shards = source_shards(config)
    record = TrainingData.open(
        config.data, seed=config.seed, shards=shards, replies_only=True
    ).record(3)
    with pytest.raises(DataError, match=r"data.sources.domain holds other tokens"):
        TrainingData.open(config.data, seed=config.seed, shards=shards, record=record)
