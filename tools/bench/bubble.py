# SPDX-License-Identifier: Apache-2.0
"""Idle time of the 1F1B pipeline schedule, beside the theory: (stages - 1) / microbatches.

    python tools/bench/bubble.py
    python tools/bench/bubble.py --rounds 30 --microbatches 16

Two ranks with one thread each share the layers of one model equally; its vocabulary is so small
that embedding and head weigh nothing. A round is one pass over the microbatches, forward and
backward. A rank computes, or it is idle: it sends and receives, or waits for the other to end the
round. The bubble is idle over computing, of the fastest third of the rounds. Reducing gradients and
the update are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

STAGES = 2
WARMUP_ROUNDS = 2
LAYERS, HIDDEN, MLP, HEADS, LENGTH, VOCABULARY = 4, 256, 704, 4, 256, 64
SETTINGS: dict[str, Any] = {
    "precision": {"dtype": "fp32"},
    "parallel": {"pp": STAGES},
    "schedule": {"steps": 1000},
}


class Computing:
    """Seconds inside the forward and backward passes of megatron-core's schedules."""

    def __init__(self, schedules: ModuleType) -> None:
        self.total_s = 0.0
        for name in ("forward_step", "backward_step"):
            setattr(schedules, name, self._timed(getattr(schedules, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.total_s += time.perf_counter() - started_s

        return timed


def work(folder: Path, *, microbatches: int, rounds: int) -> None:
    """One rank: a line on stdout for each round with its seconds, all and those of computing."""
    from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig
    from megacpt.device import runtime
    from megacpt.device.environment import rank_from_environment
    from megacpt.device.quiet import quiet_libraries

    quiet_libraries()
    ranks = rank_from_environment()
    assert ranks is not None
    started = runtime.start(ranks, cluster=ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1))
    import torch
    from megatron.core.pipeline_parallel import schedules
    from omegaconf import OmegaConf

    from megacpt.device.groups import initialise_parallel
    from megacpt.model.forward import run_microbatches
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches

    computing = Computing(schedules)
    settings = run_settings(folder, microbatches=microbatches)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), settings))
    assert isinstance(config, RunConfig)
    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=started)
    run.state.transformer.finalize_model_grads_func = None
    with read_batches(run.data, first_step=1, last_step=1, device=started.device) as batches:
        batch = batches.take(1).microbatches
    for _ in range(rounds):
        torch.distributed.barrier()
        computing.total_s, started_s = 0.0, time.perf_counter()
        run_microbatches(run.state.chunks, microbatches=batch, num_sources=1, forward_only=False)
        torch.distributed.barrier()
        whole_s = time.perf_counter() - started_s
        print(json.dumps([whole_s, computing.total_s]), flush=True)
    runtime.stop()


def run_settings(folder: Path, *, microbatches: int) -> dict[str, Any]:
    return SETTINGS | {
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "init": "random"},
        "data": {
            "sources": {"random": {"prefix": str(folder / "random")}},
            "sequence_length": LENGTH,
            "global_batch_size": microbatches,
        },
    }


def write_inputs(folder: Path) -> None:
    """A model folder without weights and a shard of random tokens."""
    import numpy as np
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from megacpt.shards.reader import write_shard

    model = folder / "model"
    model.mkdir()
    shape = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": LENGTH,
    }
    (model / "config.json").write_text(json.dumps(shape))
    words = {f"t{n}": n for n in range(VOCABULARY)}
    Tokenizer(WordLevel(words, unk_token="t0")).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t1"}))
    rng = np.random.default_rng(0)
    documents = (rng.integers(0, VOCABULARY, LENGTH + 1) for _ in range(100))
    write_shard(folder / "random", documents=documents, vocab_size=VOCABULARY)


def measure(folder: Path, *, microbatches: int, rounds: int) -> list[list[tuple[float, float]]]:
    """Of each rank, of each round: seconds of all and of computing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    common = {"WORLD_SIZE": str(STAGES), "LOCAL_WORLD_SIZE": str(STAGES), "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    numbers = ["--microbatches", str(microbatches), "--rounds", str(rounds)]
    command = [sys.executable, __file__, *numbers, "--folder", str(folder)]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(STAGES)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit("a rank has failed")
    return [[json.loads(line) for line in output.splitlines()] for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=32, help="two more than are timed")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    microbatches, rounds = arguments.microbatches, arguments.rounds
    if arguments.folder is not None:
        work(arguments.folder, microbatches=microbatches, rounds=rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        ranks = measure(Path(folder), microbatches=microbatches, rounds=rounds)
    theory = (STAGES - 1) / microbatches
    quiet = quietest(ranks)
    idle = [[whole / busy - 1 for whole, busy in (rank[n] for n in quiet)] for rank in ranks]
    for number, (rank, bubbles) in enumerate(zip(ranks, idle, strict=True)):
        busy_ms = 1000 * statistics.median(rank[n][1] for n in quiet) / microbatches
        shown = " ".join(f"{bubble:.3f}" for bubble in bubbles)
        print(f"rank {number}: {busy_ms:.0f} ms a microbatch, idle/computing by round: {shown}")
    measured = statistics.median(statistics.mean(pair) for pair in zip(*idle, strict=True))
    print(f"bubble {measured:.4f}, theory {theory:.4f}, ratio {measured / theory:.3f}")


def quietest(ranks: list[list[tuple[float, float]]]) -> list[int]:
    """The fastest third of the rounds. Whatever else runs on the machine makes a rank slower, and
    then the other waits for it, which is not the schedule's doing."""
    rounds = range(WARMUP_ROUNDS, len(ranks[0]))
    by_time = sorted(rounds, key=lambda n: max(rank[n][0] for rank in ranks))
    return sorted(by_time[: max(len(by_time) // 3, 1)])


if __name__ == "__main__":
    main()
