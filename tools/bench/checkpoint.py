# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint costs training: written beside it, and while it waits.

    python tools/bench/checkpoint.py
    python tools/bench/checkpoint.py --rounds 5 --length 512 --folder /shared/somewhere

SmolLM2-135M's shape in bf16 with fp32 masters and both moments of AdamW (1.9 GB), in one process
with all cores of this machine. Each round takes some steps alone, saves while training waits, saves
beside training, and takes steps until that is written; so a machine whose speed drifts is slow for
all alike. Ratios are medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
STALL_MAX, SPEED_MIN = 0.15, 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All in seconds."""

    alone: float
    """A step with no save under way."""
    beside: float
    """A step while a checkpoint is written."""
    steps_beside: int
    waiting: float
    """A save for which training waits."""
    stall: float
    """Of a save beside training: for the snapshot, and to publish."""
    written: float
    """From the beginning of a save beside training until it is published."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="alone, in each round")
    parser.add_argument("--length", type=int, default=1024, help="tokens of each of the 4 samples")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary one)")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="megacpt-bench-", dir=arguments.folder))
    try:
        write_inputs(work, length=arguments.length)
        rounds = measure(work, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(rounds)


def write_inputs(work: Path, *, length: int) -> None:
    """A model folder without weights and a shard of random tokens."""
    import numpy as np
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from megacpt.shards.reader import write_shard

    model, vocabulary = work / "model", int(str(LLAMA["vocab_size"]))
    model.mkdir()
    config = LLAMA | {"max_position_embeddings": length}
    (model / "config.json").write_text(json.dumps(config))
    words = {f"t{n}": n for n in range(vocabulary)}
    Tokenizer(WordLevel(words, unk_token="t0")).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t1"}))
    rng = np.random.default_rng(0)
    documents = (rng.integers(0, vocabulary, length + 1) for _ in range(400))
    write_shard(work / "random", documents=documents, vocab_size=vocabulary)


def run_config(work: Path, *, length: int) -> Any:
    from omegaconf import OmegaConf

    from megacpt.config.sections import RunConfig

    changes = {
        "run_dir": str(work / "run"),
        "model": {"path": str(work / "model"), "init": "random"},
        "data": {
            "sources": {"random": {"prefix": str(work / "random")}},
            "sequence_length": length,
            "global_batch_size": 4,
            "micro_batch_size": 4,
        },
        "schedule": {"steps": 1000},
        "checkpoint": {"keep_last": 1},
    }
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), changes))


def measure(work: Path, arguments: argparse.Namespace) -> list[Round]:
    from megacpt.config.sections import ClusterConfig
    from megacpt.device import runtime
    from megacpt.device.environment import RankInfo
    from megacpt.device.quiet import quiet_libraries

    quiet_libraries()
    started = runtime.start(RankInfo(), cluster=ClusterConfig())

    from megacpt.checkpoint.retention import retention_of
    from megacpt.checkpoint.writer.pace import CORES
    from megacpt.checkpoint.writer.process import Background
    from megacpt.device.groups import initialise_parallel
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches
    from megacpt.train.garbage import collecting_every
    from megacpt.train.position import Position
    from megacpt.train.saves import Saves
    from megacpt.train.step import forward_backward, gradient_norm, update

    config = run_config(work, length=arguments.length)
    initialise_parallel(config.parallel, seed=config.seed)
    writer: Background[Any] = Background(cores=CORES)
    run = assemble(config, runtime=started)
    position, optimizer, optim = Position(), run.state.optimizer, config.optim
    beside, waiting = (
        Saves(
            run.state,
            folder=run.run_dir / "checkpoints",
            identity=run.identity,
            retention=retention_of(config.checkpoint, best_of=None),
            on_error=config.checkpoint.on_error,
            writer=of,
        )
        for of in (writer, None)
    )
    with (
        collecting_every(config.kernels.manual_gc_steps) as collect_garbage,
        read_batches(
            run.data, first_step=1, last_step=config.schedule.steps, device=started.device
        ) as batches,
    ):

        def step() -> None:
            position.step += 1
            batch = batches.take(position.step)
            forward_backward(run.state, batch=batch, device=started.device)
            norm = gradient_norm(optimizer)
            beside.settle()
            lr = learning_rate(position.step, optim=optim, schedule=config.schedule)
            update(optimizer, norm=norm, lr=lr, optim=optim)
            collect_garbage(position.step)

        def save(saves: Saves) -> None:
            saves.begin(position, start=run.origin.start, must=True)
            saves.finish(position)

        # Both once before: plans, and memory that is touched for the first time.
        for saves in (waiting, beside):
            step()
            save(saves)
        found = []
        for number in range(arguments.rounds):
            # Beside it the last round's checkpoint is deleted.
            step()
            found.append(
                one_round(
                    step,
                    lambda: save(waiting),
                    lambda: beside.begin(position, start=run.origin.start, must=True),
                    beside,
                    position,
                    steps=arguments.steps,
                )
            )
            show(number + 1, found[-1])
    writer.close()
    return found


def one_round(
    step: Callable[[], None],
    save_waiting: Callable[[], None],
    begin_beside: Callable[[], None],
    beside: Any,
    position: Any,
    *,
    steps: int,
) -> Round:
    alone = [seconds(step) for _ in range(steps)]
    waiting = seconds(save_waiting)
    alone.append(seconds(step))
    beside.figures()
    began_at = time.perf_counter()
    begin_beside()
    during = [seconds(step)]
    while beside.is_writing():
        during.append(seconds(step))
    beside.finish(position)
    return Round(
        alone=statistics.median(alone),
        beside=statistics.fmean(during),
        steps_beside=len(during),
        waiting=waiting,
        stall=beside.figures()["checkpoint_stall_s"],
        written=time.perf_counter() - began_at,
    )


def seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def show(number: int, r: Round) -> None:
    print(
        f"round {number}: step {r.alone:.2f} s alone, {r.beside:.2f} s beside a save (mean of "
        f"{r.steps_beside}); save {r.waiting:.2f} s waiting; beside training {r.written:.2f} s in "
        f"all, stall {r.stall:.3f} s",
        flush=True,
    )


def report(rounds: list[Round]) -> None:
    stall = statistics.median(r.stall / r.waiting for r in rounds)
    speed = statistics.median(r.alone / r.beside for r in rounds)
    for name, value, rule, holds in (
        ("stall of a save / save that waits", stall, f"<= {STALL_MAX}", stall <= STALL_MAX),
        ("speed beside a save / alone", speed, f">= {SPEED_MIN}", speed >= SPEED_MIN),
    ):
        print(f"{name:36} {value:.3f}   {rule}   {'yes' if holds else 'NO'}")


if __name__ == "__main__":
    main()
