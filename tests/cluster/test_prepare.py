# SPDX-License-Identifier: Apache-2.0
"""Which schedules a run may go on with, and packages that a setting needs, before any rank."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from megacpt.checkpoint import folders
from megacpt.cluster.prepare import check, prepare
from megacpt.config.compose import compose, read_run_yaml, write_run_yaml
from megacpt.config.sections import Init, RunConfig
from megacpt.device.packages import found_version
from megacpt.errors import CheckpointError, ConfigError, EnvironmentError_, ModelError
from megacpt.families import param_rows, read_architecture
from megacpt.families.stored.fingerprint import fingerprint
from megacpt.families.targets import architecture_of_run
from tests.checkpoint import small
from tests.support import LLAMA, write_model_folder


def config_of(run_dir: Path, *settings: str) -> RunConfig:
    return compose(["experiment=tiny", f"run_dir={run_dir}", "schedule.steps=20", *settings])


def trained(run_dir: Path, *settings: str, steps: int) -> None:
    """What a run leaves that was stopped after ``steps``."""
    run_dir.mkdir(parents=True)
    write_run_yaml(config_of(run_dir, *settings), path=run_dir / "run.yaml")
    leave_checkpoint(run_dir, steps=steps)


def leave_checkpoint(run_dir: Path, *, steps: int) -> None:
    root = run_dir / "checkpoints"
    start = small.claim(root)
    partial = small.write_partial(root, step=steps, start=start)
    architecture = asdict(read_architecture(str(config_of(run_dir).model.path)))
    written = small.manifest_of(partial, step=steps, start=start)
    manifest = replace(written, data={}, architecture=architecture)
    folders.publish(root, partial=partial, manifest=manifest, start=start)


WSD = ("schedule=wsd", "schedule.steps=20", "schedule.warmup_steps=2", "schedule.decay_steps=5")


@pytest.mark.parametrize(
    ("before", "done", "after"),
    [
        (WSD, 15, (*WSD, "schedule.steps=40")),
        (("schedule=constant", "schedule.steps=20"), 20, ("schedule=constant",)),
        (("schedule=constant", "schedule.steps=20"), 15, (*WSD[:2], "schedule.decay_steps=5")),
    ],
    ids=["wsd-extended", "constant-extended", "constant-cooled-down"],
)
def test_steps_done_keep_their_rate(
    tmp_path: Path, before: tuple[str, ...], done: int, after: tuple[str, ...]
) -> None:
    run_dir = tmp_path / "run"
    trained(run_dir, *before, steps=done)
    config = config_of(run_dir, *after)
    assert check(config).steps == config.schedule.steps
    write_run_yaml(config, path=run_dir / "run.yaml")


@pytest.mark.parametrize("settings", [(), WSD], ids=["cosine", "wsd-decaying"])
def test_another_past_is_refused(tmp_path: Path, settings: tuple[str, ...]) -> None:
    run_dir = tmp_path / "run"
    trained(run_dir, *settings, steps=18)
    with pytest.raises(ConfigError, match=r"schedule changes what was done: step \d+ of the 18"):
        check(config_of(run_dir, *settings, "schedule.steps=40"))


@pytest.mark.parametrize("setting", ["seed=7", "precision=bf16", "data.order=megatron"])
def test_plan_refuses_another_run_s_folder_as_train_does(tmp_path: Path, setting: str) -> None:
    """With run.yaml alone: of a run that has no checkpoint yet."""
    path = tmp_path / "run" / "run.yaml"
    write_run_yaml(config_of(path.parent, "precision=fp32"), path=path)
    assert check(config_of(path.parent, "precision=fp32")).steps == 20
    other = config_of(path.parent, "precision=fp32", setting)
    with pytest.raises(ConfigError, match="belongs to a run with other settings") as of_train:
        write_run_yaml(other, path=path)
    with pytest.raises(ConfigError) as of_plan:
        check(other)
    assert str(of_plan.value) == str(of_train.value)


@pytest.mark.skipif(found_version("emerging-optimizers") is not None, reason="Muon is there")
def test_muon_without_its_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentError_, match=r"optim.optimizer=muon needs .*emerging-optimizers"
    ):
        check(config_of(tmp_path / "run", "optim.optimizer=muon"))


def test_a_length_in_epochs_is_pinned_as_steps(tmp_path: Path) -> None:
    asked = ["experiment=tiny", f"run_dir={tmp_path / 'run'}", "schedule.epochs=0.2"]
    plan = prepare(compose([*asked, "schedule.warmup_fraction=0.1"]))
    assert plan.steps == 98
    assert "Length       schedule.epochs=0.2 of plant and garden: 98 steps" in plan.render()
    run_yaml = tmp_path / "run" / "run.yaml"
    pinned = read_run_yaml(run_yaml).schedule
    assert (pinned.steps, pinned.warmup_steps, pinned.is_open) == (98, 10, False)
    assert "# schedule.warmup_fraction=0.1: 10 steps" in run_yaml.read_text()
    # The domain's samples, of which there are six in a step.
    drawn = {source.name: source for source in plan.sources}
    held = sum(drawn[name].available_tokens for name in ("plant", "garden"))
    of_domain = sum(drawn[name].tokens for name in ("plant", "garden"))
    assert 0.2 <= of_domain / held < 0.2 + 6 * 64 / held + 1e-3


def test_the_same_length_again_goes_on_to_the_same_step(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    asked = ["experiment=tiny", f"run_dir={run_dir}", "schedule.warmup_fraction=0.1"]
    config = compose([*asked, "schedule.tokens=10_000"])
    assert prepare(config).steps == 20
    before = (run_dir / "run.yaml").read_text()
    leave_checkpoint(run_dir, steps=15)
    assert prepare(config).steps == 20
    assert (run_dir / "run.yaml").read_text() == before
    with pytest.raises(ConfigError, match="schedule changes what was done"):
        check(compose([*asked, "schedule.tokens=20_000"]))


def test_rules_of_steps_wait_for_the_steps(tmp_path: Path) -> None:
    asked = ["experiment=tiny", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"978 steps go through plant 1\.773 times"):
        check(compose([*asked, "schedule.epochs=2", "data.sources.plant.max_epochs=1"]))
    with pytest.raises(ConfigError, match=r"warmup_steps=5 leaves no step after warmup"):
        check(compose([*asked, "schedule.tokens=2_000", "schedule.warmup_steps=5"]))
    for wrong in ("schedule.epochs=0", "schedule.tokens=0", "schedule.warmup_fraction=1"):
        with pytest.raises(ConfigError, match=wrong):
            check(compose([*asked, wrong]))


CONFIG_PAGE = (Path(__file__).parents[2] / "docs" / "config.md").read_text()


def test_the_page_shows_what_a_changed_rate_is_answered_with(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ["experiment=tiny", f"run_dir={run_dir}"]
    run_dir.mkdir()
    write_run_yaml(compose(settings), path=run_dir / "run.yaml")
    leave_checkpoint(run_dir, steps=24)
    with pytest.raises(ConfigError) as of_rate:
        check(compose([*settings, "optim.lr_peak=0.001"]))
    with pytest.raises(ConfigError) as of_seed:
        write_run_yaml(compose([*settings, "seed=3"]), path=run_dir / "run.yaml")
    for caught in (of_rate, of_seed):
        message = str(caught.value).replace(str(run_dir), "/home/me/runs/tiny")
        assert f"Error: {message}\n" in CONFIG_PAGE


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "quantization"])
def test_plan_tells_quantised_weights_from_a_config_that_only_says_so(
    key: str, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    base = write_model_folder(tmp_path / "base", **{key: {"quant_method": "int8"}})
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, base / "model.safetensors")
    config = config_of(tmp_path / "run", f"model.path={base}", "model.init=pretrained")
    assert f"states {key} (int8), but the weights are plain numbers" in check(config).advice[-1]
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, base / "model.safetensors")
    with pytest.raises(ModelError, match=rf"but is I8, as config.json says: {key} \(int8\)"):
        check(config)
    assert len(check(replace(config, model=replace(config.model, init=Init.random))).advice) <= 1


def write_weights(folder: Path, *, seed: int) -> Path:
    architecture = read_architecture(write_model_folder(folder))
    generator = np.random.default_rng(seed)
    tensors = {
        source.name.format(layer=layer): generator.normal(size=source.shape(architecture)).astype(
            np.float32
        )
        for row in param_rows(architecture)
        for source in row.sources
        for layer in row.layers(architecture)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_an_adapter_goes_on_beside_its_own_base_alone(tmp_path: Path) -> None:
    mine, other = (write_weights(tmp_path / n, seed=s) for s, n in enumerate(("mine", "other")))
    settings = (f"model.path={mine}", "model=pretrained", "adapter=lora", "adapter.rank=4")
    config = config_of(tmp_path / "run", *settings)
    root = tmp_path / "run" / "checkpoints"
    start = small.claim(root)
    partial = small.write_partial(root, step=5, start=start)
    manifest = replace(
        small.manifest_of(partial, step=5, start=start),
        data={},
        architecture=asdict(architecture_of_run(config.model, adapter=config.adapter)),
        base=fingerprint(mine),
    )
    folders.publish(root, partial=partial, manifest=manifest, start=start)
    check(config)
    mine.rename(tmp_path / "kept")
    other.rename(mine)
    with pytest.raises(CheckpointError, match=f"is an adapter to other weights.*{mine} has"):
        check(config)
    elsewhere = config_of(
        tmp_path / "next",
        *settings,
        f"checkpoint.load_from={tmp_path / 'run'}",
        "checkpoint.load.data=false",
    )
    with pytest.raises(CheckpointError, match="is an adapter to other weights"):
        check(elsewhere)
    moved = config_of(tmp_path / "run", *settings, f"model.path={tmp_path / 'kept'}")
    check(moved)


def test_what_an_adapter_cannot_be_is_said_with_all_else(tmp_path: Path) -> None:
    asked = ("adapter=lora", "adapter.targets=q_prj", "optim.weight_decay=-1")
    with pytest.raises(ConfigError, match=r"(?s)did you mean q_proj.*optim.weight_decay=-1"):
        check(config_of(tmp_path / "run", *asked))
