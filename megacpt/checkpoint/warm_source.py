# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of another run that this one begins with (``checkpoint.load_from``).

Chosen once: RUN_DIR/warm_start.json names it, so that a run that dies before its first checkpoint
begins with the same one again, whatever the other run has written since. From its own first
checkpoint on a run resumes and looks at no source any more. No torch, so that all is checked before
a process starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacpt.checkpoint import folders, verify
from megacpt.checkpoint.manifest import (
    MANIFEST,
    CheckpointManifest,
    read_manifest,
    require_architecture,
)
from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.config.sections import LoadConfig, OptimConfig, RunConfig, ScheduleConfig
from megacpt.errors import CheckpointError, ConfigError, Violation
from megacpt.families.architecture import Architecture
from megacpt.files import write_text
from megacpt.plan.learning_rate import describe, learning_rate
from megacpt.plan.rules.checkpoint import taken
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import fresh_record
from megacpt.text import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSource:
    """A checkpoint, and what is taken of it."""

    folder: Path
    manifest: CheckpointManifest
    config: RunConfig | None
    """Of the run that wrote it; None where the checkpoint lies alone."""
    load: LoadConfig

    @property
    def step(self) -> int:
        """The step that the new run goes on from; 0: its first one comes next."""
        return self.manifest.step if self.load.schedule else 0

    @property
    def updates(self) -> int:
        """Updates that the new run's optimizer has made."""
        return int(self.manifest.faults["updates"]) if self.load.optimizer else 0

    def data_record(self, config: RunConfig) -> dict[str, Any] | None:
        """What the new run takes for drawn when it begins."""
        if self.load.data:
            return DataRecord.from_json(self.manifest.data).at_step(self.step).to_json()
        if self.step == 0:
            return None
        return fresh_record(config.data, seed=config.seed, step=self.step).to_json()


def find(config: RunConfig) -> WarmSource | None:
    """The source of a run that has no checkpoint of its own; None where it has, or needs none.

    What cannot be used raises: a source that is missing or damaged CheckpointError, settings that
    do not go with it ConfigError.
    """
    run_dir, wanted = Path(config.run_dir), config.checkpoint.load_from
    if wanted is None or folders.newest(run_dir / "checkpoints") is not None:
        return None
    folder = _chosen_before(run_dir, wanted=wanted) or _choose(Path(wanted), run_dir=run_dir)
    run_yaml = RunFolder(folder.parent.parent).run_yaml
    source = WarmSource(
        folder=folder,
        manifest=read_manifest(folder),
        config=read_run_yaml(run_yaml) if run_yaml.is_file() else None,
        load=config.checkpoint.load,
    )
    if broken := list(_violations(source, config=config)):
        raise ConfigError(broken)
    return source


def require_same_model(source: WarmSource, *, architecture: Architecture) -> None:
    if source.load.weights:
        require_architecture(
            source.manifest, architecture=asdict(architecture), folder=source.folder
        )


def remember(source: WarmSource, *, config: RunConfig) -> None:
    """The next start of this run begins with the same one."""
    content = {"load_from": config.checkpoint.load_from, "checkpoint": str(source.folder)}
    text = json.dumps(content | {"step": source.manifest.step}, indent=2) + "\n"
    write_text(RunFolder(Path(config.run_dir)).warm_start, text=text)


def sentences(source: WarmSource, *, config: RunConfig) -> Iterator[str]:
    """For people: what is taken, and the learning rate there and here."""
    step = source.manifest.step
    own = [name for name in asdict(source.load) if name not in taken(source.load)]
    yield (
        f"Begins with {source.folder} (step {step}): its {listed(taken(source.load))}. As in any "
        f"new run: {listed([*own, 'random generators'])}."
    )
    there = (
        f"at step {step} there "
        + _rate(step, optim=source.config.optim, schedule=source.config.schedule)
        if source.config is not None and step > 0
        else f"at step {step} there not known (no run.yaml beside the checkpoint)"
    )
    first = source.step + 1
    here = f"at this run's first step, {first}, " + _rate(
        first, optim=config.optim, schedule=config.schedule
    )
    yield f"Learning rate: {there}; {here}. This run's settings alone are used."


def _rate(step: int, *, optim: OptimConfig, schedule: ScheduleConfig) -> str:
    rate = learning_rate(step, optim=optim, schedule=schedule)
    return f"{rate:.3g} (peak {optim.lr_peak:.3g}, {describe(schedule)}, {schedule.steps} steps)"


def _chosen_before(run_dir: Path, *, wanted: str) -> Path | None:
    """As remembered, if it is still there and what is asked for has not changed."""
    try:
        content = json.loads(RunFolder(run_dir).warm_start.read_text(encoding="utf-8"))
        folder, asked = Path(content["checkpoint"]), content["load_from"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return folder if asked == wanted and not _problems(folder) else None


def _choose(path: Path, *, run_dir: Path) -> Path:
    """``path`` itself, where it is a checkpoint, or the newest one of the run folder it is."""
    if run_dir in (path, path.parent.parent):
        raise CheckpointError(
            f"checkpoint.load_from={path} is of this run itself, which goes on from its newest "
            "checkpoint anyway; use load_from=null, or another run_dir for a new run."
        )
    if (path / MANIFEST).is_file():
        if problems := _problems(path):
            raise CheckpointError(
                f"checkpoint.load_from={path} is damaged: {'; '.join(problems)}; name another "
                "checkpoint of that run, or its folder for the newest sound one."
            )
        return path
    newest = folders.newest(path / "checkpoints")
    if newest is None:
        what = "holds no complete checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"checkpoint.load_from={path} {what}; name a run folder that has one, or one of its "
            "folders checkpoints/step_*."
        )
    return newest


def _problems(folder: Path) -> list[str]:
    try:
        return verify.quick(folder)
    except CheckpointError as error:
        return [str(error)]


def _violations(source: WarmSource, *, config: RunConfig) -> Iterator[Violation]:
    if source.step >= config.schedule.steps:
        yield Violation(
            path="schedule.steps",
            value=config.schedule.steps,
            rule=f"leaves no step after step {source.step} of {source.folder}, which "
            "checkpoint.load.schedule goes on from",
            remedy=f"use more than {source.step}, or checkpoint.load.schedule=false",
        )
    if source.load.optimizer and source.config is not None:
        yield from _optimizer_violations(source.config, new=config, folder=source.folder)


def _optimizer_violations(old: RunConfig, *, new: RunConfig, folder: Path) -> Iterator[Violation]:
    """Moments are an optimizer's own, and masters are there beside narrower weights alone."""
    for path, was, now in (
        ("optim.optimizer", old.optim.optimizer.name, new.optim.optimizer.name),
        ("precision.dtype", old.precision.dtype.name, new.precision.dtype.name),
    ):
        if was != now:
            yield Violation(
                path=path,
                value=now,
                rule=f"was {was} in the run of {folder}, so its optimizer state does not fit",
                remedy=f"use {path}={was} or checkpoint.load.optimizer=false",
            )
