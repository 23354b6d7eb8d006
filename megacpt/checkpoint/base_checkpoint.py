# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of another run that this one begins with (``checkpoint.load_from``).

Chosen once: RUN_DIR/warm_start.json names it, so that a run that dies before its first checkpoint
begins with the same one again, whatever the other run has written since. From its own first
checkpoint on a run resumes and needs no base checkpoint any more. No torch, so that all is checked
before a process starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.checkpoint import folders, verify
from megacpt.checkpoint.manifest import MANIFEST, CheckpointManifest, require_architecture
from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.config.sections import (
    CheckpointConfig,
    DataConfig,
    Dtype,
    LoadConfig,
    OptimConfig,
    ScheduleConfig,
)
from megacpt.errors import CheckpointError, ConfigError, Violation
from megacpt.families.architecture import Architecture
from megacpt.files import write_text
from megacpt.plan.learning_rate import describe, learning_rate
from megacpt.plan.rules.checkpoint import taken
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import fresh_record
from megacpt.text import listed

_OF_ROPE = ("max_positions", "query_growth", "rope_scaling", "rope_theta")
"""What of an architecture ``model.rope`` sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """The settings of a run that its optimizer state and learning rate depend on."""

    optim: OptimConfig
    schedule: ScheduleConfig
    dtype: Dtype

    def rate(self, step: int) -> str:
        rate = learning_rate(step, optim=self.optim, schedule=self.schedule)
        shape, steps = describe(self.schedule), self.schedule.steps
        return f"{rate:.3g} (peak {self.optim.lr_peak:.3g}, {shape}, {steps} steps)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCheckpoint:
    """A checkpoint of another run, and what is loaded from it."""

    folder: Path
    manifest: CheckpointManifest
    written_with: UpdateSettings | None
    """None where the checkpoint lies alone, without its run.yaml."""
    load_from: str
    load: LoadConfig

    def graduates(self, architecture: Architecture) -> bool:
        """An adapter goes into a run of all weights."""
        is_adapter = self.manifest.architecture.get("adapter") is not None
        return self.load.weights and is_adapter and architecture.adapter is None

    @property
    def step(self) -> int:
        """The step that the new run goes on from; 0: its first one comes next."""
        return self.manifest.step if self.load.schedule else 0

    @property
    def updates(self) -> int:
        """Updates that the new run's optimizer has made."""
        return int(self.manifest.faults["updates"]) if self.load.optimizer else 0

    def data_record(self, config: DataConfig, *, seed: int) -> dict[str, Any] | None:
        """What the new run takes for drawn when it begins."""
        if self.load.data:
            return DataRecord.from_json(self.manifest.data).at_step(self.step).to_json()
        if self.step == 0:
            return None
        return fresh_record(config, seed=seed, step=self.step).to_json()

    def remember(self, run_dir: Path) -> None:
        """Let the next start of the run in ``run_dir`` begin with the same one."""
        content = {
            "load_from": self.load_from,
            "checkpoint": str(self.folder),
            "step": self.manifest.step,
        }
        write_text(RunFolder(run_dir).warm_start, text=json.dumps(content, indent=2) + "\n")


def find(config: CheckpointConfig, *, run_dir: Path) -> BaseCheckpoint | None:
    """The base checkpoint of a run that has no checkpoint of its own; None where it needs none.

    CheckpointError where it is missing or damaged.
    """
    wanted = config.load_from
    if wanted is None or folders.newest(run_dir / "checkpoints") is not None:
        return None
    folder = _chosen_before(run_dir, wanted=wanted) or _choose(Path(wanted), run_dir=run_dir)
    return BaseCheckpoint(
        folder=folder,
        manifest=CheckpointManifest.read(folder),
        written_with=_written_with(folder),
        load_from=wanted,
        load=config.load,
    )


def require_fit(
    base: BaseCheckpoint,
    *,
    architecture: Architecture,
    settings: UpdateSettings,
    new_rope: bool = False,
) -> None:
    """Refuse settings (ConfigError) or a model (CheckpointError) that do not go with it.

    A run of all weights may begin with an adapter's checkpoint: the update is added to the base
    model's weights. ``new_rope``: the run sets rotary positions of its own (``model.rope``).
    """
    graduates = base.graduates(architecture)
    if broken := list(_violations(base, settings=settings, graduates=graduates)):
        raise ConfigError(broken)
    if base.load.weights:
        free = {"adapter"} if graduates else set()
        if new_rope:
            free.update(_OF_ROPE)
        kept = {k: v for k, v in base.manifest.architecture.items() if k not in free}
        manifest = replace(base.manifest, architecture=kept)
        require_architecture(manifest, architecture=asdict(architecture), folder=base.folder)


def sentences(
    base: BaseCheckpoint, *, settings: UpdateSettings, architecture: Architecture
) -> Iterator[str]:
    """For people: what is loaded, and the learning rate there and here."""
    step = base.manifest.step
    loaded = taken(base.load)
    fresh = [name for name in asdict(base.load) if name not in loaded]
    if base.graduates(architecture):
        loaded[0] = "adapter, added to the weights of model.path"
    yield (
        f"Begins with {base.folder} (step {step}): its {listed(loaded)}. As in any "
        f"new run: {listed([*fresh, 'random generators'])}."
    )
    there = (
        base.written_with.rate(step)
        if base.written_with is not None and step > 0
        else "not known (no run.yaml beside the checkpoint)"
    )
    first = base.step + 1
    yield (
        f"Learning rate: at step {step} there {there}; at this run's first step, {first}, "
        f"{settings.rate(first)}. This run's settings alone are used."
    )


def _written_with(folder: Path) -> UpdateSettings | None:
    run_yaml = RunFolder(folder.parent.parent).run_yaml
    if not run_yaml.is_file():
        return None
    run = read_run_yaml(run_yaml)
    return UpdateSettings(optim=run.optim, schedule=run.schedule, dtype=run.precision.dtype)


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


def _violations(
    base: BaseCheckpoint, *, settings: UpdateSettings, graduates: bool
) -> Iterator[Violation]:
    steps = settings.schedule.steps
    if base.step >= steps:
        yield Violation(
            path="schedule.steps",
            value=steps,
            rule=f"leaves no step after step {base.step} of {base.folder}, which "
            "checkpoint.load.schedule goes on from",
            remedy=f"use more than {base.step}, or checkpoint.load.schedule=false",
        )
    old = base.written_with
    if base.load.optimizer and graduates:
        yield Violation(
            path="checkpoint.load.optimizer",
            value="true",
            rule=f"asks for moments of all weights, and {base.folder} has those of an adapter",
            remedy="set checkpoint.load.optimizer=false",
        )
        return
    if not base.load.optimizer or old is None:
        return
    # Moments belong to one optimizer, and masters exist only beside narrower weights.
    for path, was, now in (
        ("optim.optimizer", old.optim.optimizer.name, settings.optim.optimizer.name),
        ("precision.dtype", old.dtype.name, settings.dtype.name),
    ):
        if was != now:
            yield Violation(
                path=path,
                value=now,
                rule=f"was {was} in the run of {base.folder}, so its optimizer state does not fit",
                remedy=f"use {path}={was} or checkpoint.load.optimizer=false",
            )
