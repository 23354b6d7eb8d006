# SPDX-License-Identifier: Apache-2.0
"""Measure whole held-out sets, the base model beside the newest checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from megacpt.checkpoint import state
from megacpt.checkpoint.choose import choose
from megacpt.checkpoint.manifest import CheckpointManifest, require_architecture, require_base
from megacpt.config.declared import roles
from megacpt.config.paths import heldout_shards
from megacpt.config.sections import DeviceKind, RunConfig
from megacpt.device.collective import from_first_rank
from megacpt.device.groups import initialise_parallel
from megacpt.device.runtime import Runtime
from megacpt.device.stopwatch import Stopwatch
from megacpt.device.timers import Timers
from megacpt.errors import CheckpointError
from megacpt.evaluate.benchmarks.contamination import not_decontaminated
from megacpt.evaluate.benchmarks.progress import Progress, ProgressLine
from megacpt.evaluate.benchmarks.suites import Measured, Suites
from megacpt.evaluate.heldout import Losses, measure_all, open_heldout
from megacpt.evaluate.judged import judged
from megacpt.evaluate.suites import benchmarks, usefulness
from megacpt.families.architecture import Architecture
from megacpt.families.stored.fingerprint import base_of_run
from megacpt.families.targets import architecture_of_run
from megacpt.files import write_text
from megacpt.model.chunks import build_chunks, without_overlap, wrap_for_forward
from megacpt.plan.precision import precision_name
from megacpt.shards.manifest import require_current_tokenizer
from megacpt.tokenizer import load_tokenizer


def evaluate(
    config: RunConfig,
    *,
    runtime: Runtime,
    watched: AbstractContextManager[object],
    beat: Callable[[], None],
) -> None:
    """Write RUN_DIR/evaluation.json.

    ``watched``: open while it measures. ``beat``: called at every sign of life.
    """
    chosen = choose(Path(config.run_dir) / "checkpoints")
    if chosen is None or chosen.manifest is None:
        raise CheckpointError(
            f"{config.run_dir} has no complete checkpoint; run megacpt train on it first."
        )
    shards = heldout_shards(config)
    for prefix in shards.values():
        require_current_tokenizer(prefix)
    architecture = architecture_of_run(config.model, adapter=config.adapter)
    folder, manifest = chosen.folder, chosen.manifest
    initialise_parallel(config.parallel, seed=config.seed)
    _require_own(config, architecture=architecture, manifest=manifest, folder=folder)
    arithmetic = precision_name(config.precision, emulated=runtime.kind is not DeviceKind.gpu)
    suites = _suites(config, architecture=architecture, arithmetic=arithmetic)
    names = list(config.evaluate.benchmarks)
    timers = Timers(Stopwatch(runtime.device), beat=beat)
    chunks = base_chunks(config, architecture=architecture, runtime=runtime, timers=timers)
    measured = _losses(config, chunks=chunks, shards=shards, architecture=architecture)
    with watched:
        shown = ProgressLine(sys.stderr)
        ask = partial(suites.measure, chunks, names=names, progress=shown)
        base, base_scores = measured(), ask(label="base")
        _repeat_base(suites, chunks=chunks, progress=shown)
        state.load_model(folder, chunks=chunks)
        final, final_scores = measured(), ask(label="final")
    if runtime.ranks.rank == 0:
        unclean = not_decontaminated(config.evaluate, sources=config.data.sources)
        result = {
            "step": manifest.step,
            "arithmetic": arithmetic,
            **_comparison(config, base=base, final=final, declared=manifest.gate, unclean=unclean),
            "benchmarks": _benchmarks(
                config, base=base_scores, final=final_scores, unclean=unclean
            ),
        }
        write_text(Path(config.run_dir) / "evaluation.json", text=json.dumps(result, indent=2))


def _losses(
    config: RunConfig,
    *,
    chunks: list[Any],
    shards: Mapping[str, str],
    architecture: Architecture,
) -> Callable[[], dict[str, Losses]]:
    """Of whole held-out sets, with the weights that the chunks then have."""
    return partial(
        measure_all,
        chunks,
        sets=open_heldout(
            config.evaluate,
            data=config.data,
            shards=shards,
            vocab_size=architecture.vocab_size,
            max_tokens=0,
        ),
        micro_batch_size=config.data.micro_batch_size,
        device=next(chunks[0].parameters()).device,
    )


def _suites(config: RunConfig, *, architecture: Architecture, arithmetic: str) -> Suites:
    return Suites.open(
        config.evaluate,
        run_dir=Path(config.run_dir),
        tokenizer=load_tokenizer(Path(str(config.model.path))),
        max_length=architecture.max_positions,
        arithmetic=arithmetic,
    )


def _require_own(
    config: RunConfig, *, architecture: Architecture, manifest: CheckpointManifest, folder: Path
) -> None:
    """The checkpoint is of the run's model, and of its weights; a collective call."""
    require_architecture(manifest, architecture=asdict(architecture), folder=folder)
    base = from_first_rank(lambda: base_of_run(config.model, adapter=config.adapter is not None))
    require_base(manifest, base=base, model=config.model.path, folder=folder)


def base_chunks(
    config: RunConfig, *, architecture: Architecture, runtime: Runtime, timers: Timers
) -> list[Any]:
    """This rank's stages of the base model, for forward passes alone."""
    chunks = build_chunks(
        without_overlap(config),
        architecture=architecture,
        runtime=runtime,
        base_folder=Path(str(config.model.path)),
    )
    chunks[0].config.timers = timers
    return wrap_for_forward(
        chunks, parallel=config.parallel, precision=config.precision, device=runtime.device
    )


def _comparison(
    config: RunConfig,
    *,
    base: Mapping[str, Losses],
    final: Mapping[str, Losses],
    declared: str | None,
    unclean: Mapping[str, list[str]],
) -> dict[str, Any]:
    """``unclean``: suite -> sources that may hold its items."""
    heldout = {name: {"base": base[name], "final": final[name]} for name in base}
    run_dir = Path(config.run_dir)
    suites = benchmarks(
        run_dir,
        roles=roles(config),
        decontaminated={name: not sources for name, sources in unclean.items()},
    )
    suites |= usefulness(run_dir)
    return {
        "heldout": heldout,
        **judged(config, heldout=heldout, suites=suites, declared=declared),
    }


def _benchmarks(
    config: RunConfig,
    *,
    base: Mapping[str, Measured],
    final: Mapping[str, Measured],
    unclean: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Suite -> its means; its items are in files (megacpt.evaluate.benchmarks.suites)."""
    return {
        name: {
            "task": config.evaluate.benchmarks[name].task,
            "role": config.evaluate.benchmarks[name].role.value,
            "metric": base[name].metric,
            "items": base[name].num_items,
            "base": base[name].mean,
            "final": final[name].mean,
            "not_decontaminated": unclean[name],
        }
        for name in base
    }


def _repeat_base(suites: Suites, *, chunks: list[Any], progress: Progress) -> None:
    """With other solved examples, for the noise from run to run."""
    benchmarks = suites.evaluate.benchmarks
    for number in range(2, max((each.base_repeats for each in benchmarks.values()), default=1) + 1):
        names = [name for name, each in benchmarks.items() if each.base_repeats >= number]
        suites.measure(
            chunks, label=f"base-{number}", names=names, draw=number - 1, progress=progress
        )
