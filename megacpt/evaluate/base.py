# SPDX-License-Identifier: Apache-2.0
"""The base model itself, as model.path names it: what gain and forgetting are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megacpt.config.sections import RunConfig
from megacpt.device.runtime import Runtime
from megacpt.device.timers import Timers
from megacpt.evaluate.generate import generate
from megacpt.evaluate.heldout import as_record, measure_all
from megacpt.families.architecture import Architecture
from megacpt.model.chunks import build_chunks, without_overlap, wrap_for_forward
from megacpt.samples.heldout import HeldoutSet
from megacpt.tokenizer import Tokenizer

Record = dict[str, Any]


def forward_chunks(
    config: RunConfig, *, architecture: Architecture, runtime: Runtime, timers: Timers
) -> list[Any]:
    """This rank's stages of it, for forward passes alone."""
    chunks = build_chunks(
        without_overlap(config),
        architecture=architecture,
        runtime=runtime,
        base_folder=Path(str(config.model.path)),
    )
    chunks[0].config.timers = timers
    return wrap_for_forward(chunks, config=config, device=runtime.device)


def first_record(
    chunks: list[Any],
    *,
    config: RunConfig,
    heldout: Mapping[str, HeldoutSet],
    prompts: Sequence[str],
    tokenizer: Tokenizer,
) -> Record:
    """Of step 0 in metrics.jsonl, for weights that nothing has been trained on yet."""
    device = next(chunks[0].parameters()).device
    losses = measure_all(
        chunks, sets=heldout, micro_batch_size=config.data.micro_batch_size, device=device
    )
    record: Record = {"step": 0, "heldout": as_record(losses)}
    if prompts:
        record["generations"] = generate(
            chunks,
            prompts=list(prompts),
            tokenizer=tokenizer,
            max_new_tokens=config.evaluate.max_new_tokens,
            sequence_length=config.data.sequence_length,
            device=device,
        )
    return record
