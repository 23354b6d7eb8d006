# SPDX-License-Identifier: Apache-2.0
"""On a rank of the test of lm-eval's tasks: answer those of WORK_DIR/tasks with the models of
WORK_DIR, each in its layouts; the first rank writes what was answered to each item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from megacpt.config.sections import BenchmarkConfig
from megacpt.evaluate.journal import AnswerJournal
from megacpt.families import read_architecture
from megacpt.tokenizer import Tokenizer, load_tokenizer
from tests.evaluate.benchmarks.chunks_on_ranks import chunks_in
from tests.evaluate.benchmarks.local_tasks import TASKS
from tests.rank import rank_on_cpu

SEED = 7


def answers_of(lm: Any, *, tasks: Path) -> dict[str, list[Any]]:
    """By task, of each item what it was asked and what came back. ``lm``: any model of lm-eval."""
    from megacpt.evaluate.benchmarks.suites import run_suite
    from megacpt.evaluate.benchmarks.tasks import load_suite

    found = {}
    for task in TASKS:
        config = BenchmarkConfig(task=task, include_path=str(tasks))
        suite = load_suite(task, config=config, execute_code=False)
        samples = run_suite(suite, lm=lm, seed=SEED)[task]
        found[task] = [[sample["doc_hash"], _flat(sample["resps"])] for sample in samples]
    return found


def _flat(value: Any) -> list[Any]:
    """Log likelihoods, whether they are greedy, and texts, in one row."""
    if isinstance(value, str | int | float):
        return [value]
    return [each for part in value for each in _flat(part)]


def write_answers(work: Path, layouts: Mapping[str, Mapping[str, Any]]) -> None:
    """``layouts``: MODEL-NAME -> settings; of each WORK_DIR/MODEL-NAME.json."""
    with rank_on_cpu(timeout_minutes=10) as started:
        from megacpt.evaluate.benchmarks.calls import Model, led_by_first_rank
        from megacpt.evaluate.benchmarks.engine import Engine
        from megacpt.evaluate.benchmarks.lm import NativeLM

        for name, layout in layouts.items():
            folder = work / name.partition("-")[0]
            architecture, tokenizer = read_architecture(folder), load_tokenizer(folder)
            longest = architecture.max_positions
            given = {"folder": folder, "architecture": architecture, "runtime": started}

            def ask(
                model: Model, name: str = name, tokenizer: Tokenizer = tokenizer
            ) -> dict[str, list[Any]]:
                journal = AnswerJournal(work / f"{name}.jsonl")
                lm = NativeLM(model, tokenizer=tokenizer, journal=journal)
                return answers_of(lm, tasks=work / "tasks")

            with chunks_in(layout, sequence_length=longest, **given) as chunks:
                engine = Engine.over(chunks, max_length=longest, decode=tokenizer.decode)
                found = led_by_first_rank(engine, work=ask)
            if started.ranks.rank == 0:
                (work / f"{name}.json").write_bytes(orjson.dumps(found))
