# SPDX-License-Identifier: Apache-2.0
"""Which schedules a run may go on with, and packages that a setting needs, before any rank."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megacpt.checkpoint import folders
from megacpt.cluster.prepare import check
from megacpt.config.compose import compose, write_run_yaml
from megacpt.config.sections import Init, RunConfig
from megacpt.device.packages import found_version
from megacpt.errors import ConfigError, EnvironmentError_, ModelError
from megacpt.families import read_architecture
from tests.checkpoint import small
from tests.support import LLAMA, write_model_folder


def config_of(run_dir: Path, *settings: str) -> RunConfig:
    return compose(["experiment=tiny", f"run_dir={run_dir}", "schedule.steps=20", *settings])


def trained(run_dir: Path, *settings: str, steps: int) -> None:
    """What a run leaves that was stopped after ``steps``."""
    run_dir.mkdir(parents=True)
    write_run_yaml(config_of(run_dir, *settings), path=run_dir / "run.yaml")
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
