# SPDX-License-Identifier: Apache-2.0
"""megacpt sft: from a run and conversations to a tuned model that answers in its template."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.config.compose import read_run_yaml
from megacpt.config.sections import Objective
from tests.forked import PYTHON
from tests.train.chats import TINY, conversations

LENGTHS = ("schedule.steps=3", "data.sequence_length=128")
QUIET = ("monitor.wandb=disabled", "evaluate.prompts=null")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, and shards of conversations."""
    work = tmp_path_factory.mktemp("sft")
    for name, seed in (("chat", 0), ("held", 1)):
        lines = [json.dumps({"messages": m}) for m in conversations(60, seed=seed)]
        (work / f"{name}.jsonl").write_text("\n".join(lines))
        words = [str(work / f"{name}.jsonl"), "--output", str(work / name)]
        template = ["--tokenizer", str(TINY), "--chat-template", "plain"]
        assert main(["tokenize", "--chat", *words, *template]) == 0
    run_dir = f"run_dir={work / 'run'}"
    assert (
        main(
            [
                "train",
                "experiment=tiny",
                "schedule.steps=2",
                "schedule.warmup_steps=0",
                run_dir,
                *QUIET,
            ]
        )
        == 0
    )
    return work


def sft(work: Path, *words: str) -> int:
    return main(["sft", str(work / "run"), "--data", str(work / "chat"), *words])


@pytest.mark.slow
def test_a_run_is_tuned_and_exported(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    assert sft(work, "--heldout", str(work / "held"), *LENGTHS) == 0
    shown = capsys.readouterr().out
    assert "(its newest checkpoint) on" in shown
    assert "rate      1e-05, cosine, after a warmup of 3% of the steps" in shown
    tuned = read_run_yaml(work / "run-sft" / "run.yaml")
    assert tuned.objective is Objective.sft
    assert tuned.schedule.steps == 3
    assert tuned.evaluate.domain == "chat"
    assert main(["export", str(work / "run-sft")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(work / "run-sft" / "hf")
    asked = [{"role": "user", "content": "tea"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "User: tea\nAssistant:"


def test_settings_are_written_for_ranks_started_elsewhere(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = work / "elsewhere"
    words = ("--base", "--output", str(output), "--prepare-only", "optim.lr_peak=3e-5")
    assert sft(work, *words) == 0
    shown = capsys.readouterr().out
    assert "(its base model) on" in shown
    assert "rate      3e-05" in shown
    assert f"Next: megacpt train --config {output}/sft.yaml optim.lr_peak=3e-5" in shown
    assert (work / "chat.pack64").exists() or list(work.glob("chat.pack*"))


def test_several_ranks_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in (started | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))
    assert sft(work, "--output", str(work / "ranks")) == 2
    assert "was started as 2 ranks, but one process" in capsys.readouterr().err
    assert not (work / "ranks").exists()


def test_a_shard_of_text_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = work / "run" / "data" / "source-domain"
    assert main(["sft", str(work / "run"), "--data", str(text)]) == 2
    assert "has no mask of what the assistant says" in capsys.readouterr().err
    assert sft(work, "--heldout", str(text)) == 2
    assert f"--heldout {text} is no shard of conversations" in capsys.readouterr().err
    assert sft(work, "run_dir=elsewhere") == 2
    assert "name the new run's folder with --output" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_is_tuned_beside_the_base_and_merged(work: Path) -> None:
    """The tiny model has no weights, so it is the tuned one that the adapter stands beside."""
    pretrained = work / "run-sft" / "hf"
    chat = (f"data.sources.chat.prefix={work / 'chat'}", "data.packing=best_fit")
    model = (f"model.path={pretrained}", "model.allow_unhealthy=true", "adapter=lora")
    lengths = ("data.sequence_length=128", "schedule.steps=2", "schedule.warmup_steps=0")
    words = ("objective=sft", "data.document_mask=true", "precision=fp32", "monitor=quiet")
    run, merged = work / "lora", str(work / "merged")
    assert main(["train", *chat, *model, *lengths, *words, f"run_dir={run}"]) == 0
    # Each a process of its own: the export above has made this one a rank.
    for verb in (["export", str(run)], ["merge", "--adapter", str(run), "--output", merged]):
        subprocess.run([PYTHON, "-m", "megacpt", *verb], check=True)
    for folder in (run / "adapter", Path(merged)):
        assert "Assistant:" in (folder / "chat_template.jinja").read_text()
