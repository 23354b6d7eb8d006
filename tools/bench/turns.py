# SPDX-License-Identifier: Apache-2.0
"""Training steps that are compared: processes that take turns, a step at a time, and megacpt's own.

All processes are alive at once, so a machine whose speed drifts is slow for all alike. Ratios are
medians of the rounds' own ratios. Where others work on the machine as well, one thread each and the
seconds that it computes (``busy``) are closer to the truth than the clock's.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[], object]
WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much less of a step's time ``of`` takes than ``over``."""

    of: str
    over: str
    what: str = ""

    def __str__(self) -> str:
        return self.what or f"speed of {self.of} over {self.over}"


@dataclass(kw_only=True)
class Entrant:
    """The processes of one of the things that are compared, each with its share of the cores."""

    command: Sequence[str]
    """Takes ``--cores`` and ``--busy`` and calls ``take_turns``."""
    world: int = 1
    busy: bool = False
    steps_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        cores = 1 if self.busy else max(1, (os.cpu_count() or 1) // self.world)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": self.world, "LOCAL_WORLD_SIZE": self.world, "MASTER_PORT": port}
        common |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": cores}
        self._ranks = [
            subprocess.Popen(
                [*self.command, "--cores", str(cores), *(["--busy"] if self.busy else [])],
                env=os.environ
                | {k: str(v) for k, v in common.items()}
                | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if rank else None,
                text=True,
            )
            for rank in range(self.world)
        ]
        self._answers("ready")

    def step(self) -> None:
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write("\n")
            rank.stdin.flush()
        answers = [json.loads(line) for line in self._answers("")]
        self.steps_s.append(max(seconds for seconds, _ in answers))
        self.peak_bytes = max(peak for _, peak in answers)

    def _answers(self, expected: str) -> list[str]:
        lines = []
        for rank in self._ranks:
            assert rank.stdout is not None
            line = rank.stdout.readline()
            while line and expected and line.strip() != expected:
                line = rank.stdout.readline()
            if not line:
                sys.exit("a process has ended; its error is above")
            lines.append(line)
        return lines

    def close(self) -> None:
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.close()
            rank.wait()

    @property
    def median_s(self) -> float:
        return statistics.median(self.steps_s)


def take_turns(step: Step, *, busy: bool = False) -> None:
    """Take a step for each line on stdin and answer with its seconds and the peak memory so far."""
    clock = time.process_time if busy else time.perf_counter
    for _ in range(WARM_UP_STEPS):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        started_s = clock()
        step()
        elapsed_s = clock() - started_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([elapsed_s, peak_bytes]), flush=True)
    os._exit(0)


def race(entrants: Mapping[str, Entrant], *, rounds: int) -> None:
    for n in range(rounds):
        for entrant in entrants.values():
            entrant.step()
        seconds = "  ".join(f"{k} {e.steps_s[-1]:.2f} s" for k, e in entrants.items())
        print(f"round {n + 1}/{rounds}  {seconds}", file=sys.stderr, flush=True)
    for entrant in entrants.values():
        entrant.close()


def print_table(entrants: Mapping[str, Entrant], *, tokens: int, ratios: Sequence[Ratio]) -> None:
    width = max(8, *(len(name) + 1 for name in entrants))
    print(f"{'':{width}}{'step, s':>9}{'tokens/s':>10}{'peak GiB':>10}")
    for name, entrant in entrants.items():
        speed = tokens / entrant.median_s
        gib = entrant.peak_bytes / 2**30
        print(f"{name:{width}}{entrant.median_s:9.2f}{speed:10.0f}{gib:10.2f}")
    for ratio in ratios:
        if {ratio.of, ratio.over} <= entrants.keys():
            pairs = zip(entrants[ratio.over].steps_s, entrants[ratio.of].steps_s, strict=True)
            print(f"{ratio!s:52}{statistics.median(a / b for a, b in pairs):6.2f}")


def own_step(settings: Sequence[Mapping[str, Any]]) -> Step:
    """megacpt's step of a run with these settings, the last first; this process is one rank."""
    from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig
    from megacpt.device import runtime
    from megacpt.device.environment import rank_from_environment
    from megacpt.device.quiet import quiet_libraries

    quiet_libraries()
    ranks = rank_from_environment()
    assert ranks is not None
    started = runtime.start(ranks, cluster=ClusterConfig(device=DeviceKind.cpu))
    from omegaconf import OmegaConf

    from megacpt.device.groups import initialise_parallel
    from megacpt.plan.learning_rate import learning_rate
    from megacpt.train.assembly import assemble
    from megacpt.train.batches import read_batches
    from megacpt.train.step import forward_backward, gradient_norm, update

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), *settings))
    assert isinstance(config, RunConfig)
    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=started)
    optimizer, optim, schedule = run.state.optimizer, config.optim, config.schedule
    batches = read_batches(run.data, first_step=1, last_step=schedule.steps, device=started.device)
    numbers = iter(range(1, schedule.steps + 1))

    def step() -> float:
        number = next(numbers)
        sums = forward_backward(run.state, batch=batches.take(number), device=started.device)
        lr = learning_rate(number, optim=optim, schedule=schedule)
        update(optimizer, norm=gradient_norm(optimizer), lr=lr, optim=optim)
        return sums.mean_loss

    return step
