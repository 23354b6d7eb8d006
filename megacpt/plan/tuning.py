# SPDX-License-Identifier: Apache-2.0
"""The settings of a run that tunes another run's model on conversations. Pure.

Model, layout, precision and kernels stay as they are; what is learned, how fast and how long is
new. The rates are those that are usual for it: 1e-5 of all weights, 1e-4 of an adapter, falling to
a tenth, after a short warmup, over two epochs, without weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from megacpt.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    HeldoutConfig,
    LrShape,
    Objective,
    Packing,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
)

FULL_LR, ADAPTER_LR = 1e-5, 1e-4
EPOCHS = 2.0
WARMUP_FRACTION = 0.03
LARGEST_BATCH = 32
STEPS_AN_EPOCH = 25
"""At least, where the conversations are enough: with fewer, a rate of this size teaches little."""
CHAT = "chat"
"""Name of the source, and of the held-out set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftRequest:
    run_dir: Path
    shard: Path
    """Conversations, with a mask."""
    tokens: int
    """Of that shard."""
    heldout: Path | None = None
    """Conversations to measure."""
    from_base: bool = False
    """Begin with the run's base model instead of its newest checkpoint."""


def tuned(run: RunConfig, *, tuning: SftRequest) -> RunConfig:
    """The settings of the new run, as a person could have written them."""
    is_adapter = run.adapter is not None
    return replace(
        run,
        run_dir=str(tuning.run_dir),
        objective=Objective.sft,
        adapter=replace(run.adapter, load_from=None) if run.adapter is not None else None,
        data=_data(run, tuning=tuning),
        optim=replace(
            run.optim,
            lr_peak=ADAPTER_LR if is_adapter else FULL_LR,
            weight_decay=0.0,
            base_lr_peak=None,
        ),
        schedule=ScheduleConfig(
            steps=0,
            epochs=EPOCHS,
            warmup_steps=0,
            warmup_fraction=WARMUP_FRACTION,
            shape=LrShape.cosine,
        ),
        checkpoint=_checkpoint(run, tuning=tuning),
        evaluate=_evaluate(run.evaluate, heldout=tuning.heldout),
    )


def _data(run: RunConfig, *, tuning: SftRequest) -> DataConfig:
    data = run.data
    return DataConfig(
        sources={CHAT: SourceConfig(prefix=str(tuning.shard))},
        packing=Packing.best_fit,
        document_mask=run.parallel.cp == 1,
        sequence_length=data.sequence_length,
        global_batch_size=_batch_size(run, tokens=tuning.tokens),
        micro_batch_size=data.micro_batch_size,
        prefetch_steps=data.prefetch_steps,
    )


def _batch_size(run: RunConfig, *, tokens: int) -> int:
    """Whole microbatches on every replica; few enough for STEPS_AN_EPOCH."""
    least = run.parallel.dp * run.data.micro_batch_size
    rows = tokens // run.data.sequence_length
    most = min(run.data.global_batch_size, LARGEST_BATCH, rows // STEPS_AN_EPOCH)
    return max(most // least, 1) * least


def _checkpoint(run: RunConfig, *, tuning: SftRequest) -> CheckpointConfig:
    old = run.checkpoint
    return CheckpointConfig(
        every_steps=old.every_steps,
        asynchronous=old.asynchronous,
        on_error=old.on_error,
        load_from=None if tuning.from_base else run.run_dir,
    )


def _evaluate(old: EvaluateConfig, *, heldout: Path | None) -> EvaluateConfig:
    """What the first run measured goes on to be; its thresholds were for that run."""
    new = replace(old, gate=GateConfig())
    if heldout is None:
        return new
    sets = old.heldout | {CHAT: HeldoutConfig(prefix=str(heldout))}
    return replace(new, heldout=sets, domain=CHAT)
