# SPDX-License-Identifier: Apache-2.0
"""A run's settings as a twin takes them: its batches, and AdamW with the rate of each step.

A twin's loss is that of the tokens alone: for a mixture the run says
``model.router_aux_loss_coef: 0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacpt.config.paths import source_shards
from megacpt.config.sections import RunConfig
from megacpt.plan.learning_rate import learning_rate
from megacpt.samples.training_data import TrainingData
from megacpt.shards.reader import write_shard
from tests.adapter_cases.models import models
from tests.adapter_cases.training import AdamW, GlobalBatch, Multipliers

TOKENIZER = Path(__file__).parents[2] / "configs" / "model" / "tiny"
VOCAB_SIZE = 257
"""Of the packaged tokenizer, and prime as well."""


def write_run_inputs(work: Path, *, name: str) -> None:
    """WORK/model, one of ``models`` with a tokenizer, and the shards of ``parity_config``."""
    case = models()[name]
    sizes = {"vocab_size": VOCAB_SIZE, "bos_token_id": 256, "eos_token_id": 256}
    replace(case, changes={**case.changes, **sizes}).write(work / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (work / "model" / file).write_text((TOKENIZER / file).read_text())
    rng = np.random.default_rng(0)
    for shard in ("domain", "replay"):
        # Skewed, so that there is something to learn within a few steps.
        shares = (rng.random(rng.integers(20, 90)) for _ in range(60))
        documents = ((VOCAB_SIZE * share**3).astype(np.int64) for share in shares)
        write_shard(work / shard, documents=documents, vocab_size=VOCAB_SIZE)


def batches_of(config: RunConfig, *, steps: int) -> list[GlobalBatch]:
    """Whatever the run's layout; without masked documents."""
    assert not config.data.document_mask
    data = TrainingData.open(config.data, seed=config.seed, shards=source_shards(config))
    found = []
    for step in range(steps):
        batch: Any = data.load(step, positions=range(data.batch_size(step)))
        found.append(
            GlobalBatch(
                tokens_BS=torch.from_numpy(batch.tokens_BS).long(),
                labels_BS=torch.from_numpy(batch.labels_BS).long(),
                loss_mask_BS=torch.from_numpy(batch.loss_mask_BS),
            )
        )
    return found


def adamw_of(
    config: RunConfig, *, steps: int, multipliers: Mapping[str, Multipliers] | None = None
) -> AdamW:
    """``multipliers`` are the twin's own, as it has other names of parameters."""
    optim = config.optim
    return AdamW(
        lr_by_step=[
            learning_rate(step, optim=optim, schedule=config.schedule)
            for step in range(1, steps + 1)
        ],
        beta1=optim.beta1,
        beta2=optim.beta2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        clip_grad_norm=optim.clip_grad_norm,
        multipliers=multipliers or {},
    )
