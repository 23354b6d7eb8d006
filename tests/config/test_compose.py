# SPDX-License-Identifier: Apache-2.0
"""Composition: precedence, mapping entries without ``+``, and one message for every bad key."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from megacpt.config.compose import compose, group_options, read_run_yaml, render, write_run_yaml
from megacpt.config.paths import configs_root, contract, expand
from megacpt.config.schema import flatten, known_keys, to_tree
from megacpt.config.sections import (
    AdapterConfig,
    AdapterMethod,
    Dtype,
    Init,
    RunConfig,
    SourceConfig,
)
from megacpt.errors import ConfigError

GROUPS = group_options([configs_root()])
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def message_of(*overrides: str, **arguments: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, **arguments)
    return str(caught.value)


def test_no_override_gives_the_defaults_of_the_dataclasses() -> None:
    default = RunConfig()
    default.run_dir = str(Path(default.run_dir).absolute())
    assert compose([]) == default


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_group_option_composes(group: str, option: str) -> None:
    assert isinstance(compose([f"{group}={option}"]), RunConfig)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g != "experiment"])
def test_a_group_file_says_what_differs_in_its_own_section(group: str, option: str) -> None:
    file = OmegaConf.to_container(OmegaConf.load(configs_root() / group / f"{option}.yaml"))
    assert isinstance(file, dict)
    written = {f"{group}.{key}" for key in flatten({str(k): v for k, v in file.items()})}
    chosen = flatten(to_tree(compose([f"{group}={option}"])))
    default = flatten(to_tree(compose([])))
    changed = {key for key, value in chosen.items() if key not in default or default[key] != value}
    assert written <= changed, "repeats a default, or is of another section"
    assert all(key.startswith(f"{group}.") for key in changed), "sets another section silently"


def test_a_default_can_be_referred_to_though_no_group_file_has_it() -> None:
    assert compose(["schedule.decay_steps=${schedule.steps}"]).schedule.decay_steps == 100


def test_precedence_is_group_then_experiment_then_file_then_command_line(tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("experiment: tiny\nprecision: bf16\nschedule:\n  steps: 7\n  warmup_steps: 2\n")
    config = compose(["schedule.steps=9"], config_file=mine)
    assert (config.schedule.steps, config.schedule.warmup_steps) == (9, 2)
    assert config.optim.lr_peak == 3e-3, "of the experiment"
    assert config.precision.dtype is Dtype.bf16, "a group option beats the experiment's"


def test_mapping_entries_and_optional_sections_need_no_plus() -> None:
    config = compose(
        [
            "data.sources.law.prefix=data/law",
            "data.sources.law.weight=3",
            "data.sources.web-2.prefix=/abs/web",
            "data.replay.source=web-2",
            "data.replay.share=0.1",
            "evaluate.heldout.general.prefix=y",
        ]
    )
    assert config.data.sources["law"] == SourceConfig(
        prefix=str(Path("data/law").absolute()), weight=3.0
    )
    assert config.data.replay is not None
    assert config.data.replay.share == 0.1
    assert config.evaluate.heldout["general"].prefix == str(Path("y").absolute())


def test_plus_signs_dicts_and_deletion_are_understood_too() -> None:
    config = compose(
        ["experiment=tiny", "+data.sources.a={prefix: /a, weight: 2}", "~data.sources.garden"]
    )
    assert set(config.data.sources) == {"plant", "kitchen", "a"}
    assert config.data.sources["a"].weight == 2.0
    assert compose(["++data={sequence_length: 32}"]).data.sequence_length == 32


def test_an_optional_section_can_be_unset() -> None:
    assert compose(["experiment=tiny", "data.replay=null"]).data.replay is None


def test_an_option_that_sets_nothing_sets_no_optional_section(tmp_path: Path) -> None:
    assert compose([]).adapter is compose(["adapter=none"]).adapter is None
    assert compose(["adapter.rank=8"]).adapter == AdapterConfig(rank=8)
    assert compose(["adapter=dora"]).adapter == AdapterConfig(method=AdapterMethod.dora)
    # run.yaml says null, and is a file for --config.
    file = tmp_path / "file.yaml"
    for written in ("adapter: null\n", "adapter: none\n", "adapter:\n"):
        file.write_text(written)
        assert compose([], config_file=file).adapter is None
        assert compose(["adapter=lora"], config_file=file).adapter == AdapterConfig()
    file.write_text("adapter: {rank: 4}\n")
    assert compose([], config_file=file).adapter == AdapterConfig(rank=4)
    assert compose(["adapter=none", "adapter=lora"]).adapter == AdapterConfig()
    for unset in ("adapter=null", "adapter=none"):
        assert compose([unset], config_file=file).adapter is None
        assert compose([unset, "adapter.rank=2"], config_file=file).adapter == AdapterConfig(rank=2)


@pytest.mark.parametrize("text", ["a b", "a,b", "{a: [b]}", "it's", "é ü 文", "a=b", "1e3", "null"])
def test_any_text_in_quotes_arrives_unchanged(text: str) -> None:
    assert compose([f'monitor.wandb_name="{text}"']).monitor.wandb_name == text


def test_a_text_may_hold_commas() -> None:
    config = compose(["adapter.targets=q_proj, v_proj", "adapter.layers=0-3,7", "run_dir=a,b"])
    assert config.adapter is not None
    assert (config.adapter.targets, config.adapter.layers) == ("q_proj, v_proj", "0-3,7")
    assert config.run_dir.endswith("/a,b")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr_paek=1", ["optim.lr_paek=1", "did you mean optim.lr_peak?"]),
        ("lr_peak=1", ["did you mean optim.lr_peak?"]),
        ("micro_batch=2", ["did you mean data.micro_batch_size?"]),
        ("data.sources.law.prefx=a", ["did you mean data.sources.law.prefix?"]),
        ("data.sorces.law.prefix=a", ["did you mean data.sources?"]),
        ("experiment=tniy", ["experiment=tniy", "did you mean experiment=tiny?"]),
        ("cluster=h100", ["cluster=h100", "did you mean experiment=h100?"]),
        ("tiny", ["did you mean experiment=tiny?"]),
        ("precision.dtype=fp17", ["precision.dtype=fp17", "fp32 or bf16"]),
        ("optim.lr_peak=abc", ["optim.lr_peak=abc", "is not a number"]),
        ("schedule.steps=1.5", ["schedule.steps=1.5", "whole number"]),
        ("parallel.sequence_parallel=maybe", ["true or false"]),
        ("model.path=[a,b]", ["model.path", "is not a text"]),
        ("data.replay.share=0.1", ["data.replay.source", "set data.replay.source"]),
        ("data.sources=3", ["data.sources=3", "is a section", "data.sources.NAME.prefix=..."]),
        ("optim.lr_peak.x=3", ["optim.lr_peak", "is not a number"]),
        ("optim=null", ["optim=null", "not an option"]),
        ("seed=1,2", ["seed=1,2", "several values"]),
        ("run_dir=[a", ["run_dir=[a", "quote"]),
        ("~optim.nothing", ["~optim.nothing", "not there"]),
        ("run_dir=${nowhere}", ["cannot be resolved", "nowhere"]),
        ("model=/models/llama", ["model.path=/models/llama"]),
    ],
)
def test_a_bad_override_is_named_with_its_remedy(override: str, words: list[str]) -> None:
    message = message_of(override)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_all_bad_keys_are_reported_together() -> None:
    message = message_of("parallel.tp=x", "parallel.pq=1", "oops=2")
    assert message.startswith("3 settings")
    assert all(word in message for word in ("parallel.tp=x", "parallel.pq=1", "oops=2"))


def test_a_typo_in_the_users_file_names_the_file(tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("optim:\n  lr_paek: 1\n")
    message = message_of(config_file=mine)
    assert "did you mean optim.lr_peak?" in message
    assert str(mine) in message


def test_a_typo_in_a_group_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    file = tmp_path / "optim" / "mine.yaml"
    file.write_text("lr_paek: 1\n")
    message = message_of("optim=mine", config_dir=tmp_path)
    assert "optim.lr_paek=1" in message
    assert "did you mean optim.lr_peak?" in message
    assert str(file) in message


def test_own_group_files_stand_beside_the_packaged_ones(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("lr_peak: 0.5\n")
    assert compose(["optim=mine"], config_dir=tmp_path).optim.lr_peak == 0.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1\n", "is not valid YAML"),
        ("- 1\n", "must hold"),
        ("\x00", "is not valid YAML"),
        ("experiment: nowhere\n", "experiment=nowhere"),
    ],
)
def test_a_broken_user_file_is_one_message(tmp_path: Path, content: str, words: str) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text(content)
    message = message_of(config_file=mine)
    assert words in message
    assert "\n" not in message


def test_a_broken_group_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("a: [1\n")
    message = message_of("optim=mine", config_dir=tmp_path)
    assert "mine.yaml" in message
    assert "\n" not in message


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "nope.yaml does not exist" in message_of(config_file=tmp_path / "nope.yaml")
    assert "is not a folder" in message_of(config_dir=tmp_path / "nope")


def test_run_yaml_round_trips(tmp_path: Path) -> None:
    config = compose(["experiment=tiny", f"run_dir={tmp_path}", "data.sources.a.prefix=b"])
    write_run_yaml(config, path=tmp_path / "run.yaml")
    assert read_run_yaml(tmp_path / "run.yaml") == config
    write_run_yaml(config, path=tmp_path / "run.yaml")


def test_run_yaml_names_packaged_files_independent_of_the_install_place(tmp_path: Path) -> None:
    config = compose(["experiment=tiny"])
    assert config.model.path == str(configs_root() / "model" / "tiny")
    assert config.model.init is Init.random
    write_run_yaml(config, path=tmp_path / "run.yaml")
    assert "path: builtin:model/tiny" in (tmp_path / "run.yaml").read_text()


def test_a_moved_run_folder_is_read_from_where_it_is(tmp_path: Path) -> None:
    write_run_yaml(compose([f"run_dir={tmp_path / 'a'}"]), path=tmp_path / "a" / "run.yaml")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert read_run_yaml(tmp_path / "b" / "run.yaml").run_dir == str(tmp_path / "b")


def test_another_runs_yaml_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_run_yaml(compose(["experiment=tiny"]), path=path)
    before = path.read_text()
    with pytest.raises(ConfigError) as caught:
        write_run_yaml(compose(["experiment=tiny", "seed=2", "optim.eps=1e-6"]), path=path)
    assert "seed: was 1234, now 2" in str(caught.value)
    assert "optim.eps: was 1e-08, now 1e-06" in str(caught.value)
    assert "run_dir=FOLDER" in str(caught.value)
    assert path.read_text() == before


def test_monitor_cluster_and_checkpoint_may_change_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    config = compose(["experiment=tiny"])
    write_run_yaml(config, path=path)
    changed = replace(config, checkpoint=replace(config.checkpoint, every_steps=3))
    write_run_yaml(changed, path=path)
    assert read_run_yaml(path).checkpoint.every_steps == 3


@pytest.mark.parametrize(
    "change",
    [
        "data.stages.later.from_step=9",
        "data.global_batch_size=16",
        "data.sources.garden.max_epochs=4",
        "data.sources.new.prefix=shard",
        "parallel.dp=2",
        "parallel.tp=2",
        "parallel.distributed_optimizer=true",
    ],
)
def test_what_begins_with_the_next_step_may_change_on_resume(tmp_path: Path, change: str) -> None:
    path = tmp_path / "run.yaml"
    write_run_yaml(compose(["experiment=tiny"]), path=path)
    write_run_yaml(compose(["experiment=tiny", change]), path=path)


def test_the_sources_a_run_has_may_not_change_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_run_yaml(compose(["experiment=tiny"]), path=path)
    with pytest.raises(ConfigError, match=r"data\.sources\.garden\.weight: was 1.0, now 3.0"):
        write_run_yaml(compose(["experiment=tiny", "data.sources.garden.weight=3"]), path=path)


def test_reading_needs_a_run_folder_and_whole_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        read_run_yaml(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("optim: {lr_paek: 3}\n")
    with pytest.raises(ConfigError, match=r"did you mean optim\.lr_peak"):
        read_run_yaml(tmp_path / "run.yaml")


def test_workers_read_run_yaml_without_hydra(tmp_path: Path) -> None:
    write_run_yaml(compose(["experiment=tiny"]), path=tmp_path / "run.yaml")
    code = (
        "import sys, pathlib; from megacpt.config.compose import read_run_yaml\n"
        f"read_run_yaml(pathlib.Path({str(tmp_path / 'run.yaml')!r}))\n"
        "assert 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sections_import_neither_hydra_nor_omegaconf() -> None:
    code = (
        "import sys, megacpt.config.sections\n"
        "assert not {'hydra', 'omegaconf'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_of_suites_are_found_from_any_folder() -> None:
    suites = ("benchmarks.own.task=law.yaml", "benchmarks.known.task=mmlu")
    questions = ("usefulness.asked.questions=q.jsonl", "usefulness.asked.metric=contains")
    evaluate = compose([f"evaluate.{text}" for text in (*suites, *questions)]).evaluate
    assert evaluate.benchmarks["own"].task == str(Path("law.yaml").absolute())
    assert evaluate.benchmarks["known"].task == "mmlu"
    assert evaluate.usefulness["asked"].questions == str(Path("q.jsonl").absolute())


def test_builtin_paths_expand_and_contract() -> None:
    assert contract(expand("builtin:model/tiny")) == "builtin:model/tiny"
    assert expand("~/x") == os.path.expanduser("~/x")
    assert expand(None) is None


def test_keys_of_the_tree_are_all_known() -> None:
    leaves = flatten(to_tree(RunConfig()))
    assert {key for key, value in leaves.items() if value != {}} <= set(known_keys())


def test_rendered_configuration_is_a_usable_file(tmp_path: Path) -> None:
    config = compose(["experiment=tiny"])
    (tmp_path / "again.yaml").write_text(render(config))
    assert compose([], config_file=tmp_path / "again.yaml") == config


def test_an_h100_overlaps_its_replicas() -> None:
    config = compose(["model.path=m", "parallel=single", "experiment=h100"])
    assert config.cluster.device.name == "gpu"
    parallel = config.parallel
    assert parallel.distributed_optimizer
    assert parallel.overlap_grad_reduce
    assert parallel.overlap_param_gather
    assert compose(["kernels=deterministic"]).kernels.deterministic


def test_notes_are_comments_of_run_yaml(tmp_path: Path) -> None:
    config = compose(["experiment=tiny", f"run_dir={tmp_path}"])
    write_run_yaml(config, path=tmp_path / "run.yaml", notes=["first", "  second"])
    assert (tmp_path / "run.yaml").read_text().endswith("\n# first\n#   second\n")
    assert read_run_yaml(tmp_path / "run.yaml") == config
