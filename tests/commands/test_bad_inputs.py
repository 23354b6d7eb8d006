# SPDX-License-Identifier: Apache-2.0
"""What people do wrong: each time exit code 2, one clear message, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.cluster.prepare import prepare
from megacpt.config.compose import compose
from megacpt.config.paths import configs_root
from megacpt.shards.tokenize import tokenize
from tests.forked import PYTHON

TINY = configs_root() / "model" / "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder with a small model, a token shard ``law`` and a text ``law.jsonl``."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    def write(self, name: str, text: str) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def train(self, *overrides: str) -> list[str]:
        """A training that would work, but for ``overrides``."""
        return [
            "train",
            f"run_dir={self.root / 'run'}",
            "model.init=random",
            f"model.path={self.model}",
            f"data.sources.law.prefix={self.root / 'law'}",
            "data.sequence_length=32",
            *overrides,
        ]


Case = tuple[Callable[[Folder], list[str]], list[str]]
"""Makes the bad arguments in a folder; words the message must hold."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(root=tmp_path)
    shutil.copytree(TINY, made.model)
    text = made.write("law.jsonl", json.dumps({"text": "the law of the land " * 8}) + "\n")
    tokenize([text], tokenizer=made.model, output_prefix=tmp_path / "law", workers=1)
    return made


def other_tokenizer(folder: Folder) -> list[str]:
    path = folder.model / "tokenizer.json"
    nfc = '"normalizer":{"type":"NFC"}'
    path.write_text(path.read_text().replace('"normalizer":null', nfc))
    return folder.train()


def without(name: str) -> Callable[[Folder], list[str]]:
    def case(folder: Folder) -> list[str]:
        (folder.root / name).unlink()
        return folder.train()

    return case


def truncated_shard(folder: Folder) -> list[str]:
    os.truncate(folder.root / "law.bin", 100)
    return folder.train()


def typo_in_group_file(folder: Folder) -> list[str]:
    folder.write("groups/optim/mine.yaml", "lr_paek: 1\n")
    return folder.train("optim=mine", "--config-dir", str(folder.root / "groups"))


def user_file(text: str) -> Callable[[Folder], list[str]]:
    return lambda folder: folder.train("--config", folder.write("my.yaml", text))


def model_config(**changes: object) -> Callable[[Folder], list[str]]:
    def case(folder: Folder) -> list[str]:
        path = folder.model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder.train()

    return case


def broken_model_config(folder: Folder) -> list[str]:
    (folder.model / "config.json").write_text("{")
    return folder.train()


def other_run(folder: Folder) -> list[str]:
    prefix = folder.root / "law"
    yaml = (
        f"seed: 1\nmodel: {{path: {folder.model}}}\ndata: {{sources: {{a: {{prefix: {prefix}}}}}}}"
    )
    folder.write("run/run.yaml", yaml)
    return folder.train("seed=2")


def run_folder_is_a_file(folder: Folder) -> list[str]:
    folder.write("run", "")
    return folder.train()


def read_only_run_folder(folder: Folder) -> list[str]:
    """/proc refuses new files even to root."""
    return folder.train("run_dir=/proc/run")


def full_disk(folder: Folder) -> list[str]:
    (folder.root / "run").mkdir()
    (folder.root / "run" / "run.yaml.partial").symlink_to("/dev/full")
    return folder.train()


def truncated_weights(folder: Folder) -> list[str]:
    folder.write("model/model.safetensors", "0123456789")
    return folder.train("model.init=pretrained")


def checkpoint_of_another_model(folder: Folder) -> list[str]:
    quick = ["schedule.steps=1", "schedule.warmup_steps=0", "precision=fp32", "monitor=quiet"]
    assert main(folder.train(*quick)) == 0
    model_config(num_hidden_layers=2)(folder)
    return folder.train(*quick)


def evaluate_untrained(folder: Folder) -> list[str]:
    prepare(compose(folder.train()[1:]))
    return ["evaluate", str(folder.root / "run")]


def tokenizing(text: str, *words: str) -> Callable[[Folder], list[str]]:
    def case(folder: Folder) -> list[str]:
        source = folder.write("in.jsonl", text)
        output = str(folder.root / "out")
        return ["tokenize", source, "--tokenizer", str(folder.model), "--output", output, *words]

    return case


def change(*overrides: str) -> Callable[[Folder], list[str]]:
    return lambda folder: folder.train(*overrides)


MERGE = ["merge", "--output", "out"]
CASES: dict[str, Case] = {
    "unknown key": (change("optim.lr_paek=1"), ["optim.lr_paek", "did you mean optim.lr_peak?"]),
    "unknown top key": (change("sources=1"), ["sources=1", "did you mean data.sources?"]),
    "typo in a group file": (typo_in_group_file, ["optim.lr_paek=1", "mine.yaml", "optim.lr_peak"]),
    "typo in the user's file": (
        user_file("data: {sequence_lenght: 3}"),
        ["data.sequence_lenght=3", "my.yaml", "did you mean data.sequence_length?"],
    ),
    "user's file is no YAML": (user_file("a: [1"), ["my.yaml", "is not valid YAML"]),
    "user's file is missing": (
        change("--config", "nowhere.yaml"),
        ["nowhere.yaml does not exist"],
    ),
    "unknown experiment": (change("experiment=tniy"), ["did you mean experiment=tiny?"]),
    "forgotten equals sign": (change("tiny"), ["did you mean experiment=tiny?"]),
    "wrong type": (change("schedule.steps=many"), ["schedule.steps=many", "whole number"]),
    "wrong enum": (change("precision.dtype=fp8"), ["precision.dtype=fp8", "fp32 or bf16"]),
    "several values": (change("seed=1,2"), ["seed=1,2", "several values"]),
    "no model": (change("model.path=null"), ["model.path=null", "set model.path=FOLDER"]),
    "model path is wrong": (change("model.path=/no/model"), ["/no/model"]),
    "folder is no model": (without("model/config.json"), ["model", "config.json"]),
    "broken config.json": (broken_model_config, ["config.json"]),
    "unknown family": (model_config(model_type="bert"), ["model_type", "bert", "llama"]),
    "heads that do not fit": (model_config(num_key_value_heads=3), ["num_key_value_heads"]),
    "no tokenizer": (without("model/tokenizer.json"), ["tokenizer.json"]),
    "tokenizer of another model": (other_tokenizer, ["law", "another tokenizer", "tokenize"]),
    "shard is missing": (
        change("data.sources.web.prefix=/no/web"),
        ["data.sources.web.prefix=/no/web", "/no/web.bin does not exist", "megacpt tokenize"],
    ),
    "shard lacks its index": (without("law.idx"), ["law.idx does not exist"]),
    "shard is cut short": (truncated_shard, ["law"]),
    "shard below one sample": (
        change("data.sequence_length=256"),
        ["data.sequence_length=256 needs 257 tokens a sample, but source law holds 161"],
    ),
    "no source": (change("~data.sources.law"), ["data.sources", "names no text to train on"]),
    "tp does not divide": (
        change("parallel.tp=3"),
        ["parallel.tp=3 does not divide num_key_value_heads=2; use 1 or 2"],
    ),
    "pp does not divide": (change("parallel.pp=3"), ["num_hidden_layers=4; use 1, 2 or 4"]),
    "vpp without pp": (change("parallel.vpp=2"), ["parallel.vpp=2 needs", "parallel.pp=2"]),
    "batch does not divide": (
        change("parallel.dp=3"),
        ["data.global_batch_size=8 is no multiple", "use 6 or 9"],
    ),
    "replay share without source": (
        change("data.replay.share=0.1"),
        ["data.replay.source", "set data.replay.source"],
    ),
    "replay source unknown": (
        change("data.replay.share=0.25", "data.replay.source=web"),
        ["data.replay.source=web is not among data.sources (law)"],
    ),
    "sequence longer than positions": (
        change("data.sequence_length=512"),
        ["data.sequence_length=512 is above max_position_embeddings=256"],
    ),
    "warmup longer than the run": (
        change("schedule.steps=3"),
        ["schedule.warmup_steps=5 leaves no step"],
    ),
    "prompts are missing": (
        change("evaluate.prompts=/no/prompts.txt"),
        ["evaluate.prompts=/no/prompts.txt does not exist"],
    ),
    "held-out set is missing": (
        change("evaluate.heldout.web.prefix=/no/web"),
        ["evaluate.heldout.web.prefix=/no/web", "/no/web.bin does not exist"],
    ),
    "held-out set is trained on": (
        lambda folder: folder.train(f"evaluate.heldout.law.prefix={folder.root / 'law'}"),
        ["evaluate.heldout.law.prefix", "is also trained on, as data.sources.law"],
    ),
    "general set is unknown": (
        change("evaluate.general=web"),
        ["evaluate.general=web is not among evaluate.heldout (none)"],
    ),
    "run folder of another run": (other_run, ["seed: was 1, now 2", "run_dir=FOLDER"]),
    "run folder is a file": (run_folder_is_a_file, ["run", "cannot be written"]),
    "run folder is read-only": (read_only_run_folder, ["/proc/run cannot be written"]),
    "disk is full": (full_disk, ["run.yaml cannot be written", "No space left on device"]),
    "corpus is empty": (tokenizing(""), ["corpus is empty", "in.jsonl"]),
    "corpus has empty texts only": (tokenizing('{"text": ""}\n'), ["corpus is empty"]),
    "corpus has another field": (tokenizing('{"body": "a"}\n'), ["'text'", "body", "--key"]),
    "corpus is no JSON": (tokenizing("hello\n"), ["in.jsonl", "is not JSON"]),
    "corpus is missing": (
        tokenizing("", "nowhere.jsonl"),
        ["nowhere.jsonl does not exist"],
    ),
    "tokenizer is missing": (
        tokenizing('{"text": "a"}\n', "--tokenizer", "/no/model"),
        ["/no/model does not exist"],
    ),
    "evaluate what is no run": (
        lambda folder: ["evaluate", str(folder.root)],
        ["is not a run folder", "run.yaml"],
    ),
    "report what is no run": (lambda folder: ["report", str(folder.root)], ["run.yaml"]),
    "merge a shard and an adapter": (
        lambda folder: [*MERGE, str(folder.root / "law"), "--adapter", str(folder.root)],
        ["law is a shard, and --adapter goes into a model"],
    ),
    "merge an adapter that is not there": (
        lambda folder: [*MERGE, "--adapter", "runs/lora"],
        ["--adapter runs/lora does not exist"],
    ),
    "merge shards as an adapter": (
        lambda folder: [*MERGE, str(folder.root / "law"), "--base", "model"],
        ["--base is of an adapter; name it with --adapter"],
    ),
    "begin with no adapter": (
        change("adapter.load_from=model"),
        ["model has no adapter_config.json", "as PEFT and megacpt export write it"],
    ),
    "unknown verb": (lambda folder: ["trian"], ["did you mean megacpt train?"]),
    "unknown option": (change("--fast"), ["--fast", "megacpt train"]),
}
SLOW_CASES: dict[str, Case] = {
    "no weights": (
        change("model.init=pretrained"),
        ["has neither model.safetensors nor model.safetensors.index.json"],
    ),
    "weights are cut short": (
        truncated_weights,
        ["model.safetensors", "not a whole safetensors file"],
    ),
    "checkpoint of another model": (checkpoint_of_another_model, ["run_dir"]),
    "evaluate before training": (evaluate_untrained, ["no complete checkpoint", "megacpt train"]),
}


@pytest.fixture
def run_case(
    folder: Folder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        monkeypatch.chdir(folder.root)
        make, words = case
        argv = make(folder)
        capfd.readouterr()
        try:
            code: object = main(argv)
        except SystemExit as end:
            code = end.code
        captured = capfd.readouterr()
        assert code == 2, captured
        assert captured.err.count("Error: ") == 1, captured.err
        assert "Traceback" not in captured.err + captured.out
        missing = [word for word in words if word not in captured.err]
        assert not missing, captured.err

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_one_message(name: str, run_case: Callable[[Case], None]) -> None:
    run_case(CASES[name])


@pytest.mark.slow
@pytest.mark.mcore
@pytest.mark.parametrize("name", SLOW_CASES)
def test_a_bad_input_that_ranks_find_is_one_message(
    name: str, run_case: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", PYTHON)
    run_case(SLOW_CASES[name])


def test_there_are_at_least_twenty() -> None:
    assert len(CASES) + len(SLOW_CASES) >= 20
