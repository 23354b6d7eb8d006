# SPDX-License-Identifier: Apache-2.0
"""The base checkpoint of a warm start is found, refused or remembered before any process starts."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megacpt.checkpoint import base_checkpoint, folders
from megacpt.checkpoint.base_checkpoint import BaseCheckpoint, UpdateSettings
from megacpt.cluster.prepare import check, prepare
from megacpt.config.compose import compose, write_run_yaml
from megacpt.config.sections import RunConfig
from megacpt.errors import CheckpointError, ConfigError
from megacpt.families import read_architecture
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import fresh_record
from tests.checkpoint.small import claim, manifest_of, write_partial


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A run that has saved after steps 8 and 12."""
    run_dir = tmp_path / "other"
    run_dir.mkdir()
    write_run_yaml(compose(["experiment=tiny", f"run_dir={run_dir}"]), path=run_dir / "run.yaml")
    start = claim(run_dir / "checkpoints", from_step=0)
    for step in (8, 12):
        publish(run_dir, step=step, start=start)
    return run_dir


def publish(run_dir: Path, *, step: int, start: object) -> Path:
    root, config = run_dir / "checkpoints", compose(["experiment=tiny"])
    partial = write_partial(root, step=step, start=start)  # type: ignore[arg-type]
    manifest = replace(
        manifest_of(partial, step=step, start=start),  # type: ignore[arg-type]
        architecture=asdict(read_architecture(str(config.model.path))),
        data=fresh_record(config.data, seed=config.seed, step=step).to_json(),
        faults={"updates": step - 1},
    )
    return folders.publish(root, partial=partial, manifest=manifest, start=start)  # type: ignore[arg-type]


def config_of(other: Path, *settings: str) -> RunConfig:
    load_from = f"checkpoint.load_from={other}"
    return compose(["experiment=tiny", f"run_dir={other.parent / 'new'}", load_from, *settings])


def find(config: RunConfig) -> BaseCheckpoint | None:
    return base_checkpoint.find(config.checkpoint, run_dir=Path(config.run_dir))


def found(config: RunConfig) -> BaseCheckpoint:
    base = find(config)
    assert base is not None
    return base


def test_a_run_folder_stands_for_its_newest_checkpoint(other: Path) -> None:
    config = config_of(other)
    base = found(config)
    assert base.folder == other / "checkpoints" / "step_00000012"
    assert (base.step, base.updates) == (0, 0)
    assert base.data_record(config.data, seed=config.seed) is None


def test_a_checkpoint_stands_for_itself(other: Path) -> None:
    config = config_of(other / "checkpoints" / "step_00000008", "checkpoint.load.schedule=true")
    base = found(config)
    assert (base.manifest.step, base.step) == (8, 8)
    record = base.data_record(config.data, seed=config.seed)
    assert record is not None
    assert DataRecord.from_json(record).segments == ()


def test_a_run_that_names_none_and_one_with_checkpoints_have_none(other: Path) -> None:
    assert find(compose(["experiment=tiny", f"run_dir={other.parent}"])) is None
    shutil.copytree(other, other.parent / "new")
    assert find(config_of(other)) is None


def test_what_is_taken_and_both_rates_are_said(other: Path) -> None:
    plan = check(config_of(other, "checkpoint.load.optimizer=true", "optim.lr_peak=1e-5"))
    text = " ".join(plan.render().split())
    assert "(step 12): its weights and optimizer." in text
    assert "As in any new run: schedule, data and random generators." in text
    assert "at step 12 there 0.00195 (peak 0.003," in text
    assert "at this run's first step, 1, 3.33e-06 (peak 1e-05," in text


def test_a_checkpoint_that_lies_alone_has_no_known_rate(other: Path) -> None:
    (other / "run.yaml").unlink()
    plan = check(config_of(other))
    assert "not known (no run.yaml" in " ".join(plan.begins)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["checkpoint.load_from={}/none"], "none does not exist; name a run folder that has one"),
        (["checkpoint.load_from={}/empty"], "empty holds no complete checkpoint; name a run"),
        (["checkpoint.load_from={}/new"], "new is of this run itself, which goes on"),
        (["checkpoint.load_from={}/other/checkpoints/step_00000008"], "00000008 is damaged: __0_0"),
        (["checkpoint.load.schedule=true", "schedule.steps=12"], "steps=12 leaves no step after"),
        (["checkpoint.load.optimizer=true", "precision=bf16"], "precision.dtype=bf16 was fp32 in"),
        (["checkpoint.load.weights=false"], "is read for nothing"),
    ],
)
def test_a_base_checkpoint_that_does_not_do_is_one_error(
    other: Path, settings: list[str], message: str
) -> None:
    (other / "checkpoints" / "step_00000008" / "__0_0.distcp").write_text("short")
    (other.parent / "empty").mkdir()
    config = config_of(other, *(text.format(other.parent) for text in settings))
    with pytest.raises((CheckpointError, ConfigError), match=message):
        check(config)
    assert not (other.parent / "new").exists()


def test_a_base_checkpoint_of_another_model_is_refused(other: Path) -> None:
    model = other.parent / "model"
    shutil.copytree(str(compose(["experiment=tiny"]).model.path), model)
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | {"rope_theta": 5e5}))
    with pytest.raises(CheckpointError, match="is of another model: its rope_theta is"):
        check(config_of(other, f"model.path={model}"))
    config = config_of(
        other,
        f"model.path={model}",
        "checkpoint.load.weights=false",
        "checkpoint.load.schedule=true",
    )
    settings = UpdateSettings(
        optim=config.optim, schedule=config.schedule, dtype=config.precision.dtype
    )
    architecture = read_architecture(str(model))
    base_checkpoint.require_fit(found(config), architecture=architecture, settings=settings)


def test_a_base_checkpoint_fits_the_same_model_with_the_rope_of_the_run(other: Path) -> None:
    check(config_of(other, "model.rope={kind: yarn, factor: 4}"))
    check(config_of(other, "model.rope={kind: default, factor: 4, theta: 5e5}"))


def test_the_base_checkpoint_is_chosen_once(other: Path) -> None:
    """Whatever the other run has saved since; unless it is gone, or another is asked for."""
    config = config_of(other)
    prepare(config)
    start = claim(other / "checkpoints", from_step=12)
    publish(other, step=16, start=start)
    assert found(config).manifest.step == 12
    older = config_of(other / "checkpoints" / "step_00000008")
    assert found(older).manifest.step == 8
    shutil.rmtree(other / "checkpoints" / "step_00000012")
    assert found(config).manifest.step == 16
