# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of models that are no run's: Hugging Face folders, each whole on this one rank.

OUTPUT/benchmarks has what a run folder has there: scores of single items, of two models as base and
final, of one as model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from megacpt.evaluate.benchmarks.tasks import require_chat_template
from megacpt.evaluate.suite_gate import SuiteCheck, judge
from megacpt.evaluate.suites import benchmarks
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.files import write_text
from megacpt.model.build import build_model
from megacpt.model.chunks import wrap_for_forward
from megacpt.model.weights import load_hf
from megacpt.tokenizer import Tokenizer, load_tokenizer

LABELS = {1: ("model",), 2: ("base", "final")}
"""By the number of models."""
RESULT = "evaluation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """By model, then by suite; ``checks``: the second model beside the first, without limits."""

    models: Sequence[Mapping[str, Measured]]
    checks: Sequence[SuiteCheck]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    folder: Path
    architecture: Architecture
    tokenizer: Tokenizer


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
    # Of all folders, before the first is asked for an hour.
    opened = [
        _Opened(
            folder=folder,
            architecture=read_architecture(folder),
            tokenizer=load_tokenizer(folder),
        )
        for folder in folders
    ]
    suites = _suites(opened[0], evaluate=evaluate, dtype=dtype, output=output)
    for other in opened[1:]:
        require_chat_template(evaluate, tokenizer=other.tokenizer)
    models = [
        _measured(model, suites=suites, label=label, dtype=dtype, runtime=runtime)
        for model, label in zip(opened, LABELS[len(folders)], strict=True)
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


def _suites(model: _Opened, *, evaluate: EvaluateConfig, dtype: Dtype, output: Path) -> Suites:
    return Suites.open(
        evaluate,
        run_dir=output,
        tokenizer=model.tokenizer,
        max_length=model.architecture.max_positions,
        arithmetic=dtype.name,
    )


def _measured(
    model: _Opened, *, suites: Suites, label: str, dtype: Dtype, runtime: Runtime
) -> dict[str, Measured]:
    architecture = model.architecture
    parallel, precision = ParallelConfig(), PrecisionConfig(dtype=dtype)
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=precision,
        kind=runtime.kind,
        sequence_length=architecture.max_positions,
    )
    load_hf(chunks, folder=model.folder, architecture=architecture)
    chunks = wrap_for_forward(
        [chunk.to(runtime.device) for chunk in chunks],
        parallel=parallel,
        precision=precision,
        device=runtime.device,
    )
    suites = replace(suites, tokenizer=model.tokenizer, max_length=architecture.max_positions)
    return suites.measure(
        chunks, label=label, names=list(suites.loaded), progress=ProgressLine(sys.stderr)
    )
