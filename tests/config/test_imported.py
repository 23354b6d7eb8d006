# SPDX-License-Identifier: Apache-2.0
"""Configurations of other trainers: every key accounted for, and what comes out composes."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.config.compose import compose
from megacpt.config.imported import Imported, import_config
from megacpt.config.limits import beyond_limits
from megacpt.config.sections import AdapterConfig, AdapterMethod, BaseWeights
from megacpt.errors import ConfigError

AXOLOTL = """
base_model: org/model
model_type: AutoModelForCausalLM
datasets:
  - {path: org/alpaca, type: alpaca}
  - {path: json, data_files: [text/law.jsonl], type: completion}
  - {path: other/law.jsonl, type: completion}
val_set_size: 0.05
output_dir: ./out
adapter:
lora_r: 8
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 4
max_steps: 200
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
gradient_checkpointing: true
warmup_ratio: 0.1
saves_per_epoch: 1
logging_steps: 1
unheard_of: 3
"""
SCRIPT = """
TP=2
ARGS=(
    --num-layers 32 --seq-length 4096 --micro-batch-size 1 --global-batch-size 128
    --train-samples 1280 --lr-warmup-samples 128 --lr 1.5e-4 --min-lr 1.5e-5
    --lr-decay-style cosine --weight-decay 0.1 --clip-grad 1.0 --bf16
    --tensor-model-parallel-size $TP --sequence-parallel --use-distributed-optimizer
    --data-path 0.3 data/law_text_document 0.7 data/web_text_document
    --save $OUT
)
torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py ${ARGS[@]}
"""
MEGATRON_YAML = """
model_parallel: {tensor_model_parallel_size: 1, bf16: True, sequence_parallel: True}
language_model: {num_layers: 24, recompute_granularity: null}
train_iters: 1000
lr_decay_iters: 800
lr_warmup_fraction: 0.05
lr_decay_style: WSD
lr_wsd_decay_iters: 100
lr: 1e-4
weight_decay: abc
clip_grad: -1
micro_batch_size: 2
save_interval: 500
"""
ARGUMENTS = """{"learning_rate": 1e-5, "per_device_train_batch_size": 4,
 "gradient_accumulation_steps": 8, "warmup_steps": 0.1, "max_steps": -1,
 "lr_scheduler_type": "polynomial", "num_train_epochs": 2, "fp16": true}"""


def imported(text: str, *, name: str, folder: Path) -> Imported:
    (folder / name).write_text(text)
    return import_config(folder / name)


def reasons(found: Imported) -> dict[str, str]:
    return {taken.name.lstrip("-"): taken.note for taken in found.keys if not taken.key}


def test_a_file_of_axolotl(tmp_path: Path) -> None:
    found = imported(AXOLOTL, name="a.yml", folder=tmp_path)
    assert found.trainer == "Axolotl"
    assert found.settings == {
        "model.path": "org/model",
        "data.sources.law.prefix": "data/law",
        "data.sources.law_1.prefix": "data/law_1",
        "run_dir": "./out",
        "data.sequence_length": "2048",
        "data.micro_batch_size": "2",
        "data.global_batch_size": 8,
        "schedule.steps": "200",
        "optim.optimizer": "adamw",
        "schedule.shape": "cosine",
        "optim.lr_peak": "2e-4",
        "precision.dtype": "bf16",
        "parallel.recompute": "full",
        "schedule.warmup_fraction": "0.1",
        "monitor.log_every_steps": 1,
        "schedule.lr_final_fraction": 0.0,
        "optim.weight_decay": 0.0,
        "optim.beta2": 0.999,
    }
    why = reasons(found)
    assert why["datasets"] == "type alpaca is no plain text"
    assert why["num_epochs"] == "schedule.steps goes first"
    assert why["adapter"] == "empty"
    assert why["lora_r"].startswith("all weights are trained")
    assert why["unheard_of"] == "not known here"


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        (
            "base_model: m\nadapter: qlora\nload_in_4bit: true\nlora_r: 8\nlora_alpha: 16\n"
            "lora_dropout: 0.05\nlora_target_linear: true\npeft_use_rslora: true\n"
            "loraplus_lr_ratio: 16\n",
            AdapterConfig(
                rank=8,
                alpha=16.0,
                dropout=0.05,
                rank_stabilised=True,
                b_lr_multiplier=16.0,
                base=BaseWeights.nf4,
            ),
        ),
        (
            "base_model: m\npeft_use_dora: true\nadapter: lora\n"
            "lora_target_modules: [q_proj, v_proj]\n",
            AdapterConfig(method=AdapterMethod.dora, targets="q_proj,v_proj"),
        ),
        (
            "model_name_or_path: m\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n",
            AdapterConfig(rank=4),
        ),
        ("model_name_or_path: m\nfinetuning_type: full\nlora_rank: 4\n", None),
        ("base_model: m\nlora_r: 8\nload_in_8bit: true\n", None),
    ],
    ids=["axolotl", "axolotl-dora", "llama-factory", "full", "unnamed"],
)
def test_adapters_where_the_other_trainer_trains_one(
    tmp_path: Path, text: str, adapter: AdapterConfig | None
) -> None:
    found = imported(text, name="a.yml", folder=tmp_path)
    experiment = tmp_path / "ours.yaml"
    experiment.write_text(found.experiment())
    assert compose([], config_file=experiment).adapter == adapter


def test_a_script_of_megatron(tmp_path: Path) -> None:
    found = imported(SCRIPT, name="pretrain.sh", folder=tmp_path)
    assert found.trainer == "Megatron-LM"
    settings = found.settings
    assert settings["schedule.tokens"] == 1280 * 4096
    assert settings["schedule.warmup_steps"] == 1
    assert settings["schedule.lr_final_fraction"] == 0.1
    assert settings["parallel.dp"] == 16 // 2
    assert settings["parallel.sequence_parallel"] is True
    assert settings["data.sources.law.weight"] == "0.3"
    assert settings["data.sources.web.prefix"] == "data/web_text_document"
    assert reasons(found)["save"] == "it is a variable that the file does not set"


def test_a_yaml_of_megatron(tmp_path: Path) -> None:
    found = imported(MEGATRON_YAML, name="gpt.yaml", folder=tmp_path)
    assert found.settings["schedule.warmup_fraction"] == 0.04, "of the decay there, of all here"
    assert found.settings["schedule.decay_steps"] == "100"
    assert found.settings["data.global_batch_size"] == 2
    why = reasons(found)
    assert why["weight_decay"] == "optim.weight_decay=abc is not a number"
    assert why["clip_grad"] == "optim.clip_grad_norm=-1.0 is below 0"
    assert why["sequence_parallel"] == "parallel.tp is 1"
    assert why["recompute_granularity"] == "empty"


def test_arguments_of_transformers(tmp_path: Path) -> None:
    found = imported(ARGUMENTS, name="args.json", folder=tmp_path)
    assert found.trainer == "transformers"
    assert found.settings["data.global_batch_size"] == 32
    assert found.settings["schedule.warmup_fraction"] == "0.1", "below 1 it is a share there"
    assert found.settings["schedule.epochs"] == "2"
    why = reasons(found)
    assert why["max_steps"] == "it is off"
    assert why["lr_scheduler_type"] == "polynomial is not done here"
    assert "schedule.shape" not in found.settings, "no default for what the file says"
    assert why["fp16"].startswith("there is no fp16")


@pytest.mark.parametrize(
    ("text", "name"),
    [(AXOLOTL, "a.yml"), (SCRIPT, "p.sh"), (MEGATRON_YAML, "g.yaml"), (ARGUMENTS, "t.json")],
)
def test_every_key_is_accounted_for_and_the_result_composes(
    tmp_path: Path,
    text: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(text, name=name, folder=tmp_path)
    assert main(["import-config", name, "--output", "mine.yaml"]) == 0
    printed = capsys.readouterr().out
    for taken in found.keys:
        assert f"{taken.name} = " in printed
    assert printed.endswith("Next: megacpt plan --config mine.yaml\n")
    config = compose([], config_file=Path("mine.yaml"))
    assert not list(beyond_limits(config))
    # The same file as an option of a group of one's own.
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    Path("mine.yaml").rename(tmp_path / "own" / "experiment" / "mine.yaml")
    assert compose(["experiment=mine"], config_dir=tmp_path / "own") == config


def test_nothing_is_overwritten_and_nothing_unknown_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yml").write_text(AXOLOTL)
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    assert main(["import-config", f"{tmp_path}/a.yml", "--output", f"{tmp_path}/mine.yaml"]) == 2
    assert "exists already" in capsys.readouterr().err
    for name, text in (("b.yml", "foo: 1\n"), ("c.sh", "echo hello\n"), ("d.yml", "- 1\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError):
            import_config(tmp_path / name)
    with pytest.raises(ConfigError, match="is not a file"):
        import_config(tmp_path / "nowhere.yml")
