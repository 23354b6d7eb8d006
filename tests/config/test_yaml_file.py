# SPDX-License-Identifier: Apache-2.0
"""Files of settings: names and values as written, dotted keys, one message for all else.

Oracles: Hydra's parser of the command line, OmegaConf's reading of values and of dotted lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from megacpt.cli import main
from megacpt.config.compose import compose
from megacpt.config.schema import flatten, to_run_config, to_tree
from megacpt.config.yaml_file import load_texts, nested
from megacpt.errors import ConfigError


def settings_of(text: str, *, folder: Path) -> dict[str, Any]:
    """What ``compose`` makes of a file, without the time that Hydra takes."""
    file = folder / "my.yaml"
    file.write_text(text)
    tree = nested(load_texts(file), path=file)
    return flatten(to_tree(to_run_config(tree, where=lambda _: str(file))))


UNKNOWN_TO_HYDRA = ["010", "0x10", "1e3", "3gpp"]
"""Its parser takes no key that begins with a digit and goes on with something else."""
NAMES = [*UNKNOWN_TO_HYDRA, "no", "yes", "on", "Off", "true", "null", "2024", "1_000", "a-1"]


@pytest.mark.parametrize("section", ["data.sources", "evaluate.heldout"])
def test_a_name_is_what_is_written_as_on_the_command_line(tmp_path: Path, section: str) -> None:
    first, second = section.split(".")
    entries = ", ".join(f"{name}: {{prefix: t{name}}}" for name in NAMES)
    found = settings_of(f"{first}: {{{second}: {{{entries}}}}}\n", folder=tmp_path)
    for name in NAMES:
        key = f"{section}.{name}.prefix"
        assert found[key] == f"t{name}"
        if name not in UNKNOWN_TO_HYDRA:
            assert OverridesParser.create().parse_override(f"{key}=t").key_or_group == key


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1.5", "a name has no dot: write data.sources.1_5.prefix"),
        ('"a.b"', "a name has no dot: write data.sources.a_b.prefix"),
        (".inf", "has an empty part"),
        ('""', "has an empty part"),
        ("a/b", "other signs than letters"),
        ("a=b", "other signs than letters"),
        ("a b", "other signs than letters"),
        ("~", "other signs than letters"),
        ("12:30:45", "other signs than letters"),
        ('"${x}"', "other signs than letters"),
        ('"???"', "other signs than letters"),
        ("? [a, b]\n    ", "not valid YAML"),
        ("? {a: 1}\n    ", "not valid YAML"),
    ],
)
def test_a_name_that_cannot_be_is_one_message(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(f"data:\n  sources:\n    {name}: {{prefix: t}}\n", folder=tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "my.yaml" in str(caught.value)


def test_no_odd_name_ends_the_command_with_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("data: {sources: {no: {prefix: t}, 1.5: {prefix: u}}}\n")
    assert main(["config", "--config", str(tmp_path / "my.yaml")]) == 2
    assert capsys.readouterr().err.startswith("Error: data.sources.1.5={...} is not a setting")


def test_group_files_of_ones_own_are_read_in_the_same_way(tmp_path: Path) -> None:
    for group in ("data", "cluster"):
        (tmp_path / group).mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("sources: {no: {prefix: t}, 2024: {prefix: u}}\n")
    (tmp_path / "cluster" / "mine.yaml").write_text("slurm.time: 24:00:00\n")
    config = compose(["data=mine", "cluster=mine"], config_dir=tmp_path)
    assert list(config.data.sources) == ["no", "2024"]
    assert config.cluster.slurm.time == "24:00:00"
    (tmp_path / "data" / "mine.yaml").write_text("&a\nsources: *a\n")
    with pytest.raises(ConfigError, match="holds a value inside itself"):
        compose(["data=mine"], config_dir=tmp_path)


@pytest.mark.parametrize("text", ["1e-5", "2.e-5", ".5", "1_0.5", '"1E-5"'])
def test_a_number_is_what_omegaconf_reads(tmp_path: Path, text: str) -> None:
    found = settings_of(f"optim: {{lr_peak: {text}}}\n", folder=tmp_path)
    assert found["optim.lr_peak"] == float(OmegaConf.create(f"x: {text}").x)


@pytest.mark.parametrize("text", ["1_000", "0x10", "+7", '"12"', "2.5e9"])
def test_a_whole_number_is_what_omegaconf_reads(tmp_path: Path, text: str) -> None:
    found = settings_of(f"schedule: {{tokens: {text}}}\n", folder=tmp_path)
    assert found["schedule.tokens"] == int(OmegaConf.create(f"x: {text}").x)


@pytest.mark.parametrize("text", ["yes", "Off", "False", "y"])
def test_a_choice_of_two_is_what_omegaconf_reads(tmp_path: Path, text: str) -> None:
    found = settings_of(f"optim: {{offload: {text}}}\n", folder=tmp_path)
    assert found["optim.offload"] == (text.lower() in ("yes", "on", "true", "y"))


@pytest.mark.parametrize("text", ["24:00:00", "no", "010", "1e3", "2024-01-01"])
def test_a_text_is_what_is_written(tmp_path: Path, text: str) -> None:
    found = settings_of(f"cluster: {{slurm: {{time: {text}}}}}\nrun_dir: {text}\n", folder=tmp_path)
    assert (found["cluster.slurm.time"], found["run_dir"]) == (text, text)


def test_a_text_of_the_command_line_is_what_is_written() -> None:
    monitor = compose(["monitor.wandb_name=1e3", "monitor.wandb_project=1_000"]).monitor
    assert (monitor.wandb_name, monitor.wandb_project) == ("1e3", "1_000")


@pytest.mark.parametrize(
    "text",
    [
        "optim.lr_peak: 1e-5\n",
        "optim: {muon.momentum: 0.9}\nseed: 3\n",
        "data.sources.law.prefix: t\ndata: {sources: {law: {weight: 2}}}\n",
        "data:\n  sources.law: {prefix: t}\n  sources.web.prefix: u\ndata.sequence_length: 64\n",
    ],
)
def test_dotted_keys_are_what_omegaconf_s_dotted_list_is(tmp_path: Path, text: str) -> None:
    leaves = flatten(load_texts_of(text, folder=tmp_path))
    wanted = OmegaConf.from_dotlist([f"{key}={value}" for key, value in leaves.items()])
    expected = to_tree(to_run_config(OmegaConf.to_container(wanted)))  # type: ignore[arg-type]
    assert settings_of(text, folder=tmp_path) == flatten(expected)


def load_texts_of(text: str, *, folder: Path) -> dict[str, Any]:
    (folder / "raw.yaml").write_text(text)
    return load_texts(folder / "raw.yaml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("optim: {lr_peak: 1e-5}\noptim.lr_peak: 2e-5\n", "optim.lr_peak=2e-5"),
        ("optim.lr_peak: 1e-5\noptim: {lr_peak: 1e-5}\n", "optim.lr_peak=1e-5"),
        ("data.replay: null\ndata.replay.share: 0.1\n", "data.replay.share=0.1"),
        ("data.replay.share: 0.1\ndata.replay: null\n", "data.replay=null"),
        ("data: {sources.a: {prefix: t}, sources: {a: {prefix: u}}}\n", "data.sources.a.prefix=u"),
    ],
)
def test_a_setting_written_twice_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is set a second time"):
        settings_of(text, folder=tmp_path)


def test_an_option_of_a_group_may_stand_beside_a_dotted_key(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("optim.lr_peak: 3e-5\noptim: muon\n")
    config = compose([], config_file=tmp_path / "my.yaml")
    assert (config.optim.optimizer.name, config.optim.lr_peak) == ("muon", 3e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run_dir:\n", "run_dir=null has no value"),
        ('run_dir: ""\n', "run_dir= has no value"),
        ('run_dir: " "\n', "has no value"),
        ("run_dir: ???\n", "has no value"),
        ('model: {path: ""}\n', "give it one, or model.path=null"),
        ('data: {sources: {law: {prefix: ""}}}\n', "or data.sources.law.prefix=null"),
        ("data: {sources: }\n", "data.sources=null has no value"),
        ("schedule: {steps: }\n", "schedule.steps=null has no value"),
        ("schedule: {steps: 010}\n", "one number in YAML 1.1 and another elsewhere"),
        ("schedule: {steps: 12:30}\n", "is not a whole number"),
        ("schedule: {steps: 1e999999}\n", "is not a whole number"),
        ("schedule: {steps: true}\n", "is not a whole number"),
        ("data: {sources: [a]}\n", "is a section of settings"),
        ("optim: {lr_peak: {a: 1}}\n", "optim.lr_peak={...} is not a number"),
        ("optim..lr_peak: 3\n", "has an empty part"),
        ("seed: 1\nseed: 2\n", "second key seed"),
        ("run_dir: !!binary aGk=\n", "not valid YAML"),
        ("data: &a {sources: *a}\n", "holds a value inside itself"),
    ],
)
def test_what_says_nothing_or_two_things_is_one_message(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(text, folder=tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["run_dir=", "run_dir=''", "run_dir='  '", "monitor.wandb_project="]
)
def test_an_empty_text_of_the_command_line_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="has no value"):
        compose([override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sources.a/b.prefix=t", "data.sources.a/b={...} has a name with other signs"),
        ("data.sources.a b.prefix=t", "data.sources.a b={...} has a name with other signs"),
        ("data.sources.a[0].prefix=t", "data.sources.a[0]={...} has a name with other signs"),
        ("data.sources={a b: {prefix: t}}", "data.sources.a b={...} has a name with other signs"),
        ("data.sources.v1.5.prefix=t", "write data.sources.v1_5.prefix"),
        ("data.sources..prefix=t", "names no setting"),
        ("optim.lr_peak@x=3", "names no setting"),
        ("=t", "names no setting"),
    ],
)
def test_a_name_of_the_command_line_is_checked_alike(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert words in str(caught.value)


def test_the_command_line_takes_every_name_that_a_file_may_have() -> None:
    config = compose([f"data.sources.{name}.prefix={name}" for name in NAMES])
    assert list(config.data.sources) == NAMES
    assert compose(["data.sources={true: {prefix: t}, null: {prefix: u}}"]).data.sources.keys() == {
        *("true", "null")
    }


def test_a_variable_of_the_environment_may_be_empty(tmp_path: Path) -> None:
    found = settings_of('kernels: {environment: {NCCL_ALGO: {value: ""}}}\n', folder=tmp_path)
    assert found["kernels.environment.NCCL_ALGO.value"] == ""


def test_a_file_may_refer_to_a_default(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("schedule.decay_steps: ${schedule.steps}\n")
    assert compose([], config_file=tmp_path / "my.yaml").schedule.decay_steps == 100
