# SPDX-License-Identifier: Apache-2.0
"""The quickstart skips what is done, and its configuration fits the files it writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megacpt.checkpoint import folders
from megacpt.config.compose import compose
from megacpt.config.paths import heldout_shards, source_shards
from megacpt.demo import quickstart
from megacpt.demo.questions import TASKS
from megacpt.demo.quickstart import (
    DATA,
    MODEL,
    RUN,
    SHARDS,
    Step,
    after_training,
    before_training,
    closing_table,
    corpus_lines,
    discard_old_model,
    discard_other_run,
)
from megacpt.samples.record import DataRecord, OrderSettings
from megacpt.samples.training_data import contents_of
from megacpt.shards.reader import IndexedShard, write_shard
from tests.checkpoint import small


def test_a_step_is_done_when_its_output_is_newer_than_its_inputs(tmp_path: Path) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "a.json"
    step = Step(title="t", words=("tokenize",), output=output, after=(source,))
    output.touch()
    assert not step.is_done()
    source.touch()
    os.utime(source, (10, 10))
    assert step.is_done()
    os.utime(output, (9, 9))
    assert not step.is_done()
    output.unlink()
    assert not step.is_done()


SAVES = """
import signal, sys, time, pathlib
def save(number, frame):
    time.sleep(0.6)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1], "begun").touch()
# A signal just before a sleep does not shorten it.
for _ in range(600):
    time.sleep(0.1)
"""
STARTS = """
import sys
from megacpt.demo.quickstart import ended
try:
    ended([sys.executable, "-c", sys.argv[2], sys.argv[1]])
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_lets_training_save(tmp_path: Path) -> None:
    """subprocess.run would kill it a quarter of a second later."""
    words = [sys.executable, "-c", STARTS, str(tmp_path), SAVES]
    process = subprocess.Popen(words, start_new_session=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert (tmp_path / "saved").exists()


def test_a_step_without_output_is_never_done() -> None:
    assert not Step(title="t", words=("plan",)).is_done()


def test_the_configuration_names_what_the_steps_write() -> None:
    config = compose(["experiment=quickstart"])
    shards = [*source_shards(config).values(), *heldout_shards(config).values()]
    assert {Path(shard) for shard in shards} == {(DATA / name).absolute() for name in SHARDS}
    assert Path(config.run_dir) == RUN.absolute()
    assert config.evaluate.gate.domain_perplexity_ratio_max == 0.92
    assert config.evaluate.gate.general_perplexity_ratio_max == 1.02
    assert config.data.replay is not None
    tasks = {name: Path(found.task) for name, found in config.evaluate.benchmarks.items()}
    assert tasks == {name: (DATA / f"{name}.yaml").absolute() for name in TASKS}


def test_the_verbs_come_in_their_order() -> None:
    steps = [*before_training(), *after_training(Path("c"))]
    assert [s.words[0] for s in steps] == [*["tokenize"] * 4, "evaluate", "export", "report"]


def test_the_corpus_is_shown_in_80_columns() -> None:
    overlap = {"removed": 1234, "shared_after": 0.0123}
    sources = {n: {"documents": 1000, "overlap": overlap} for n in ("folio", "manuals")}
    heldout = {n: {"documents": 20} for n in ("folio_heldout", "python_heldout")}
    lines = "\n".join(corpus_lines({"sources": sources, "heldout": heldout})).splitlines()
    assert len(lines) == 8
    assert max(map(len, lines)) <= 78


CHECK = {
    "base": 0.35,
    "final": 0.4,
    "difference_points": 5.0,
    "low_points": -12.3,
    "high_points": 22.3,
}


def test_the_table_shows_gain_forgetting_and_what_comes_next(tmp_path: Path) -> None:
    change = {"base": {"perplexity": 80.0}, "final": {"perplexity": 60.0}, "ratio": 0.75}
    report = {
        "heldout": {"folio": change | {"role": "domain"}, "python": change | {"role": "general"}},
        "forgetting": -0.0123,
        "gate": {"verdict": "passed"},
        "layers": [{"rows": [{"check": CHECK | {"suite": name}}]} for name in TASKS],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    table = closing_table(tmp_path, megacpt=".venv/bin/megacpt")
    assert re.search(r"^domain +80\.00 +60\.00 +0\.750$", table, re.MULTILINE)
    assert re.search(r"^forgetting +-0\.0123 nats a token$", table, re.MULTILINE)
    assert "gate declared before training: passed" in table
    for name in TASKS.values():
        assert re.search(
            rf"^{name} +0\.350 +0\.400 +\+5\.0 +\[-12\.3, \+22\.3\]$", table, re.MULTILINE
        )
    assert max(map(len, table.splitlines()[:10])) <= 79
    (tmp_path / "report.json").write_text(json.dumps(report | {"layers": []}))
    assert "which of four" not in closing_table(tmp_path, megacpt="megacpt")
    assert f".venv/bin/megacpt tokenize YOUR.jsonl --tokenizer {tmp_path / 'hf'}" in table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in (MODEL, DATA, RUN):
        path.mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("is_old", [False, True])
def test_a_model_with_another_tokenizer_is_made_again(
    is_old: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "is_outdated", lambda path: is_old and path == MODEL)
    said: list[str] = []
    discard_old_model(said.append)
    assert MODEL.exists() != is_old
    assert ("quickstart/model is of an earlier version" in "".join(said)) == is_old
    assert DATA.exists()
    assert RUN.exists()


def test_a_run_of_other_tokens_is_removed_with_a_word(folder: Path) -> None:
    def trained_on(documents: list[list[int]]) -> None:
        for name in ("folio", "manuals"):
            write_shard(DATA / name, documents=documents, vocab_size=99)
        start = small.claim(RUN / "checkpoints")
        partial = small.write_partial(RUN / "checkpoints", step=6, start=start)
        contents = contents_of({name: IndexedShard(DATA / name) for name in ("folio", "manuals")})
        settings = OrderSettings(seed=1, order="keyed", packing="stream", chunk_length=8)
        record = DataRecord(step=6, settings=settings, contents=contents, segments=())
        manifest = small.manifest_of(partial, step=6, start=start)
        manifest = replace(manifest, data=record.to_json())
        folders.publish(RUN / "checkpoints", partial=partial, manifest=manifest, start=start)

    said: list[str] = []
    shutil.rmtree(RUN)
    discard_other_run(said.append)
    RUN.mkdir()
    trained_on([[1, 2, 3]])
    discard_other_run(said.append)
    assert RUN.exists()
    assert not said
    write_shard(DATA / "manuals", documents=[[1, 2, 4]], vocab_size=99)
    discard_other_run(said.append)
    assert not RUN.exists()
    assert "quickstart/run was trained on other tokens than quickstart/data" in said[0]
    assert DATA.exists()
    assert MODEL.exists()


@pytest.mark.slow
def test_the_model_is_what_transformers_reads_from_the_package(smollm2: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from megacpt.demo import base_model
    from megacpt.tokenizer import load_tokenizer

    source = base_model.gguf_folder()
    read = transformers.AutoModelForCausalLM.from_pretrained(smollm2).state_dict()
    shipped = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=base_model.GGUF)
    for name, tensor in shipped.state_dict().items():
        assert torch.equal(tensor.to(torch.bfloat16).float(), read[name].float()), name
    tokenizer = load_tokenizer(smollm2)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (0, 2)
    assert tokenizer.decode(tokenizer.encode("Haue you had quiet Guard?")).startswith("Haue you")
