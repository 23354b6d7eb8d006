# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of models that are no run's: Hugging Face folders, each whole on this one rank.

OUTPUT/benchmarks has what a run folder has there: scores of single items, of two models as base and
final, of one as model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megacpt.config.sections import (
    Dtype,
    EvaluateConfig,
    GateConfig,
    ParallelConfig,
    PrecisionConfig,
)
from megacpt.device.groups import initialise_parallel
from megacpt.device.runtime import Runtime
from megacpt.evaluate.benchmarks.progress import ProgressLine
from megacpt.evaluate.benchmarks.suites import Measured, Suites
from megacpt.evaluate.suite_gate import SuiteCheck, judge
from megacpt.evaluate.suites import benchmarks
from megacpt.families import read_architecture
from megacpt.files import write_text
from megacpt.model.build import build_model
from megacpt.model.chunks import wrap_for_forward
from megacpt.model.weights import load_hf
from megacpt.tokenizer import load_tokenizer

LABELS = {1: ("model",), 2: ("base", "final")}
"""By the number of models."""
RESULT = "evaluation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """By model, then by suite; ``checks``: the second model beside the first, without limits."""

    models: Sequence[Mapping[str, Measured]]
    checks: Sequence[SuiteCheck]


def evaluate_folders(
    folders: Sequence[Path],
    *,
    evaluate: EvaluateConfig,
    dtype: Dtype,
    runtime: Runtime,
    output: Path,
    seed: int,
) -> Evaluated:
    """One or two models, one after the other: never both in memory. Writes ``output``.

    Each is asked in its own tokens; items are the same whatever those are."""
    initialise_parallel(ParallelConfig(), seed=seed)
    models = [
        _measured(
            folder, label=label, evaluate=evaluate, dtype=dtype, runtime=runtime, output=output
        )
        for folder, label in zip(folders, LABELS[len(folders)], strict=True)
    ]
    roles = dict.fromkeys(evaluate.benchmarks, "none") if len(folders) > 1 else {}
    checks = judge(benchmarks(output, roles=roles), gate=GateConfig(), seed=seed)
    result = {
        "models": [str(folder) for folder in folders],
        "dtype": dtype.name,
        "benchmarks": [{name: asdict(suite) for name, suite in each.items()} for each in models],
        "suites": [asdict(check) for check in checks],
    }
    write_text(output / RESULT, text=json.dumps(result, indent=2))
    return Evaluated(models=models, checks=checks)


def _measured(
    folder: Path,
    *,
    label: str,
    evaluate: EvaluateConfig,
    dtype: Dtype,
    runtime: Runtime,
    output: Path,
) -> dict[str, Measured]:
    architecture = read_architecture(folder)
    suites = Suites.open(
        evaluate,
        run_dir=output,
        tokenizer=load_tokenizer(folder),
        max_length=architecture.max_positions,
        arithmetic=dtype.name,
    )
    parallel, precision = ParallelConfig(), PrecisionConfig(dtype=dtype)
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=precision,
        kind=runtime.kind,
        sequence_length=architecture.max_positions,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    chunks = wrap_for_forward(
        [chunk.to(runtime.device) for chunk in chunks],
        parallel=parallel,
        precision=precision,
        device=runtime.device,
    )
    return suites.measure(
        chunks,
        label=label,
        names=list(evaluate.benchmarks),
        progress=ProgressLine(sys.stderr),
    )
