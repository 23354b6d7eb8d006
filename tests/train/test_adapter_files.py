# SPDX-License-Identifier: Apache-2.0
"""An adapter trained under any layout is one that PEFT loads, merges and begins the next run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.forked import PYTHON
from tests.llama_cases import write_llama
from tests.support import write_model_folder

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

SETTINGS = [
    "experiment=tiny",
    "model=pretrained",
    "schedule.steps=2",
    "schedule.warmup_steps=1",
    "data.sequence_length=32",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
    "evaluate.prompts=null",
    "data.micro_batch_size=4",
    "adapter.rank=4",
    "optim.lr_peak=1e-2",
]


def megacpt(*words: str) -> str:
    command = [PYTHON, "-m", "megacpt", *words]
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def refused(*words: str, saying: str) -> None:
    command = [PYTHON, "-m", "megacpt", *words]
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 2
    assert saying in " ".join(done.stderr.split())


def certificate(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "certificate.json").read_text())
    assert found["certified"]
    return found


def manifest(run: Path) -> dict[str, Any]:
    (newest,) = sorted((run / "checkpoints").glob("step_*"))[-1:]
    found: dict[str, Any] = json.loads((newest / "manifest.json").read_text())
    return found


def first_loss(run: Path) -> float:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(float(line["loss"]) for line in lines if "loss" in line)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with the byte tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "model"
    write_model_folder(folder)
    write_llama(folder, vocab_size=257, bos_token_id=256, eos_token_id=256)
    return folder


def test_from_a_cut_run_to_peft_and_on(base: Path, tmp_path: Path) -> None:
    """tp=2 pads the vocabulary and cuts factors; pp=2 deals them to two stages."""
    model, run = f"model.path={base}", tmp_path / "run"
    beside = ["adapter.train_embedding=true", "adapter.train_head=true"]
    layout = ["parallel.tp=2", "parallel.pp=2"]
    megacpt("train", *SETTINGS, model, f"run_dir={run}", "adapter=lora", *beside, *layout)
    assert "in PEFT against the native model's" in megacpt("export", str(run))
    found = certificate(run / "adapter")
    assert float(str(found["max_abs_difference"])) < 3e-5
    assert "peft" in dict(found["versions"])  # type: ignore[call-overload]
    card = ModelCard.load(run / "adapter" / "README.md")
    assert card.data.library_name == "peft"
    assert "PeftModel.from_pretrained(base, folder)" in card.text
    merged = tmp_path / "merged"
    megacpt("merge", "--adapter", str(run), "--output", str(merged))
    certificate(merged)
    # Read in another way, by the folder that was exported.
    megacpt("verify", str(merged), str(run / "adapter"), "--base", str(base))
    further = [f"adapter.load_from={run / 'adapter'}", *beside, f"run_dir={tmp_path / 'further'}"]
    further.append("schedule.shape=constant")
    megacpt("train", *SETTINGS, model, "adapter=lora", *further)
    # What it is measured against is the model without either adapter.
    later, first = (manifest(folder) for folder in (tmp_path / "further", run))
    for name, losses in first["base_heldout"].items():
        assert later["base_heldout"][name] == pytest.approx(losses, rel=1e-5)
    assert first_loss(tmp_path / "further") < first_loss(run) - 0.05
    # Once it has a checkpoint, nobody asks for the folder that it began with.
    shutil.rmtree(run)
    megacpt("train", *SETTINGS, model, "adapter=lora", *further, "schedule.steps=3")
    assert manifest(tmp_path / "further")["step"] == 3


def test_a_run_of_all_weights_begins_with_an_adapter(base: Path, tmp_path: Path) -> None:
    """On another layout than the adapter's, as with the merged folder."""
    model, run, merged = f"model.path={base}", tmp_path / "run", tmp_path / "merged"
    megacpt("train", *SETTINGS, model, f"run_dir={run}", "adapter=dora", "adapter.layers=1")
    megacpt("merge", "--adapter", str(run), "--output", str(merged), "--no-certificate")
    settings = [*(word for word in SETTINGS if not word.startswith("adapter")), "parallel.tp=2"]
    own, other, folder = (tmp_path / name for name in ("own", "other", "folder"))
    graduates = [*settings, f"checkpoint.load_from={run}"]
    said = megacpt("train", *graduates, model, f"run_dir={own}", "parallel.pp=2")
    assert "its adapter, added to the weights of model.path" in " ".join(said.split())
    megacpt("train", *settings, f"model.path={merged}", f"run_dir={folder}")
    assert first_loss(own) == pytest.approx(first_loss(folder), rel=1e-5)
    assert first_loss(own) < first_loss(run) - 0.05
    for name, losses in manifest(run)["base_heldout"].items():
        assert manifest(own)["base_heldout"][name] == pytest.approx(losses, rel=1e-5)
    moments = "checkpoint.load.optimizer=true"
    wrong = f"run_dir={other}"
    refused("train", *graduates, model, wrong, moments, saying="has those of an adapter")
    refused("train", *graduates, f"model.path={merged}", wrong, saying="to other weights")
    assert not other.exists()


def test_other_rotary_positions_go_into_the_merged_model(base: Path, tmp_path: Path) -> None:
    """PEFT's folder would go with the base model's own."""
    run, merged, peft = tmp_path / "run", tmp_path / "merged", tmp_path / "peft"
    rope = ["model.rope.kind=yarn", "model.rope.factor=2", "model.rope.theta=5000"]
    short = ["schedule.steps=1", "schedule.warmup_steps=0"]
    model = f"model.path={base}"
    megacpt("train", *SETTINGS, *short, *rope, model, f"run_dir={run}", "adapter=lora")
    refused("export", str(run), "--output", str(peft), saying="has other rotary positions than its")
    assert not peft.exists()
    megacpt("merge", "--adapter", str(run), "--output", str(merged))
    certificate(merged)
    config = json.loads((merged / "config.json").read_text())
    own = json.loads((base / "config.json").read_text())["max_position_embeddings"]
    assert (config["max_position_embeddings"], config["rope_theta"]) == (2 * own, 5000)


def test_another_adapter_leaves_no_run_behind(base: Path, tmp_path: Path) -> None:
    """So that the same command, with the settings that the error names, begins one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(tmp_path / "q")
    run = tmp_path / "run"
    command = [*SETTINGS, f"model.path={base}", f"run_dir={run}", "adapter=lora"]
    command.append(f"adapter.load_from={tmp_path / 'q'}")
    use = "adapter.targets=q_proj,v_proj"
    for verb in ("plan", "train"):
        refused(verb, *command, saying=f"use {use} adapter.layers=null")
        assert not run.exists()
    megacpt("train", *command, use, "schedule.steps=1", "schedule.warmup_steps=0")
    assert manifest(run)["step"] == 1
