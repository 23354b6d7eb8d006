# SPDX-License-Identifier: Apache-2.0
"""``megacpt inspect --history``: from raw files to a run, at 80 columns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.cluster.prepare import prepare
from megacpt.config.compose import compose
from megacpt.shards.manifest import read_shard_manifest
from megacpt.shards.tokenize import tokenize
from tests.corpus.curated import decontaminated, step, write_curated
from tests.support import write_model_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curated text ``out``, its shard ``data/law`` and a run ``run`` that is prepared."""
    monkeypatch.chdir(tmp_path)
    write_model_folder(tmp_path / "model")
    texts = {"law": [f"a law of the land, number {n}" for n in range(40)]}
    write_curated(Path("out"), [step("deduplicate", "law"), decontaminated("law")], texts=texts)
    tokenize(["out/law"], tokenizer="model", output_prefix="data/law", workers=1)
    settings = ["model.path=model", "model.init=random", "run_dir=run", "schedule.steps=5"]
    shards = ["data.sources.law.prefix=data/law", "data.sequence_length=32"]
    prepare(compose([*settings, *shards, "schedule.warmup_steps=1", "cluster=cpu"]))


def history(path: str, *more: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["inspect", path, "--history", *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


CHAIN = [
    "Raw text         raw/law.jsonl, 1.0 kB, sha256 cdcdcdcdcdcd",
    "1 deduplicate    9 documents, 900 bytes -> 8, 800 bytes",
    "                 threshold=0.8, version=1",
    "2 decontaminate  9 documents, 900 bytes -> 8, 800 bytes",
    "                 action=drop",
]


def test_of_a_folder_of_curate(capsys: pytest.CaptureFixture[str]) -> None:
    lines = history("out", capsys=capsys)
    assert lines[:5] == CHAIN
    assert lines[5].startswith("Curated          out, law (domain), megacpt 0.1.0, fingerprint")
    assert lines[-2].startswith("Text             40 documents, ")


def test_of_a_shard(capsys: pytest.CaptureFixture[str]) -> None:
    lines = history("data/law", "--verify", capsys=capsys)
    assert lines[:5] == CHAIN
    manifest = read_shard_manifest("data/law")
    assert manifest is not None
    shard = f"Shard            data/law: 40 documents, {manifest.tokens:,} tokens, .bin sha256"
    assert any(line.startswith(shard) for line in lines)
    shutil.rmtree("out")
    assert "not there any more" in "".join(history("data/law", capsys=capsys))
    write_curated(Path("out"), [step("filter", "law")])
    assert "another curation now" in "".join(history("data/law", capsys=capsys))


def test_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    lines = history("run", capsys=capsys)
    assert lines[0] == "Source law"
    assert lines[1:6] == CHAIN
    assert lines[-1] == "Run              run: 5 steps of model"
    # What the run has kept stays, whatever becomes of its shard.
    Path("plain.jsonl").write_text('{"text": "a plain text"}\n')
    tokenize(["plain.jsonl"], tokenizer="model", output_prefix="data/law", workers=1)
    lines = history("run", capsys=capsys)
    assert CHAIN[1:] == lines[1:5]
    assert any("It names another curation now than" in line for line in lines)
    for path in Path("data").iterdir():
        path.unlink()
    assert "no manifest: " in "".join(history("run", capsys=capsys))


def test_of_text_that_was_not_curated(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.jsonl").write_text('{"text": "a plain text"}\n')
    tokenize(["plain.jsonl"], tokenizer="model", output_prefix="data/plain", workers=1)
    lines = history("data/plain", capsys=capsys)
    assert lines[0].startswith("Raw text         plain.jsonl, 25 bytes, sha256 ")
    assert lines[1] == "Curation         no record: none, or by another tool"


def test_of_nothing_that_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "data/lwa", "--history"]) == 2
    assert "data/lwa has no history: data/lwa.json does not exist. Give" in capsys.readouterr().err


def test_of_a_shard_whose_record_was_edited(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("data/law.json")
    content = json.loads(path.read_text())
    content["curated"][0]["steps"].pop()
    path.write_text(json.dumps(content))
    assert main(["inspect", "data/law", "--history"]) == 2
    assert "says how its text was curated, but not of these files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "file", "told"),
    [
        ("out", "out/law/00000.jsonl", "out/law/00000.jsonl is not as "),
        ("data/law", "data/law.bin", "token shard data/law is not what data/law.json says"),
        ("run", "data/law.idx", "is not what "),
    ],
)
def test_every_file_is_compared_on_request(
    path: str, file: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    history(path, "--verify", capsys=capsys)
    content = bytearray(Path(file).read_bytes())
    content[-3] ^= 1
    Path(file).write_bytes(bytes(content))
    assert main(["inspect", path, "--history", "--verify"]) == 2
    assert told in capsys.readouterr().err
