# SPDX-License-Identifier: Apache-2.0
"""What a rank would refuse of the data, plan refuses; held-out text is not trained on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from megacpt.checkpoint import folders
from megacpt.cluster.data import check_prompts
from megacpt.cluster.prepare import check
from megacpt.config.compose import compose
from megacpt.config.paths import source_shards
from megacpt.config.sections import RunConfig
from megacpt.errors import CheckpointError, ConfigError, DataError, MegacptError
from megacpt.families import read_architecture
from megacpt.plan.plan import Plan
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import TrainingData
from megacpt.shards.format import HEADER, MAGIC
from megacpt.shards.merge import merge_shards
from megacpt.shards.reader import write_shard
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer
from tests.checkpoint import small
from tests.corpus.curated import decontaminated, step, write_curated
from tests.support import write_model_folder

ENDINGS = ("bin", "idx", "json")


def text_shard(folder: Path, *, name: str, files: dict[str, str]) -> Path:
    (folder / "text").mkdir(exist_ok=True)
    paths = []
    for file, text in files.items():
        path = folder / "text" / f"{file}.jsonl"
        lines = [json.dumps({"text": f"{text} number {n}"}) for n in range(40)]
        path.write_text("".join(f"{line}\n" for line in lines))
        paths.append(path)
    tokenize(paths, tokenizer=folder / "model", output_prefix=folder / name, workers=1)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and shards of three texts."""
    write_model_folder(tmp_path / "model")
    text_shard(tmp_path, name="law", files={"law": "a law"})
    text_shard(tmp_path, name="web", files={"web": "a page of it"})
    text_shard(tmp_path, name="held", files={"held": "held out"})
    return tmp_path


def config_of(folder: Path, *settings: str) -> RunConfig:
    return compose(
        [
            f"model.path={folder / 'model'}",
            "model.init=random",
            f"run_dir={folder / 'run'}",
            f"data.sources.law.prefix={folder / 'law'}",
            "data.sequence_length=32",
            "data.global_batch_size=4",
            "schedule.steps=10",
            "schedule.warmup_steps=1",
            *settings,
        ]
    )


def planned(folder: Path, *settings: str) -> Plan:
    return check(config_of(folder, *settings))


def refusal(folder: Path, *settings: str) -> str:
    with pytest.raises(MegacptError) as caught:
        planned(folder, *settings)
    assert not (folder / "run").exists()
    return str(caught.value)


def held_out(prefix: Path | str) -> str:
    return f"evaluate.heldout.h.prefix={prefix}"


def linked(how: Callable[[str, str], object], *, kinds: tuple[str, ...] = ENDINGS) -> object:
    def make(folder: Path) -> Path:
        (folder / "other").mkdir()
        for kind in kinds:
            how(f"{folder}/law.{kind}", f"{folder}/other/held.{kind}")
        return folder / "other" / "held"

    return make


def without_ends(folder: Path) -> Path:
    """The same file, its documents without EOS."""
    text = folder / "text" / "law.jsonl"
    tokenize(
        [text],
        tokenizer=folder / "model",
        output_prefix=folder / "bare",
        append_eos=False,
        workers=1,
    )
    return folder / "bare"


SAME = {
    "another way there": lambda folder: folder / "text" / ".." / "law",
    "symbolic links": linked(os.symlink),
    "hard links": linked(os.link),
    "a copy": linked(shutil.copy),
    "a copy without its manifest": linked(shutil.copy, kinds=("bin", "idx")),
    "links without a manifest": linked(os.symlink, kinds=("bin", "idx")),
    "the same file with other settings": without_ends,
}


@pytest.mark.parametrize("name", SAME)
def test_a_held_out_set_that_is_a_source_is_refused(folder: Path, name: str) -> None:
    prefix = SAME[name](folder)  # type: ignore[operator]
    message = refusal(folder, held_out(prefix))
    assert f"evaluate.heldout.h.prefix={prefix} is also trained on, as data.sources.law" in message
    web = [f"data.sources.web.prefix={prefix}", "data.replay={source: web, share: 0.25}"]
    law = [f"data.sources.law.prefix={folder / 'web'}", held_out(folder / "law")]
    assert "is also trained on, as data.sources.web" in refusal(folder, *web, *law)


def test_a_held_out_set_that_was_merged_into_a_source_is_refused(folder: Path) -> None:
    merge_shards([folder / "law", folder / "web"], output_prefix=folder / "all")
    message = refusal(folder, f"data.sources.law.prefix={folder / 'all'}", held_out(folder / "web"))
    assert f"{folder / 'all'} was made from {folder / 'text' / 'web.jsonl'}, too" in message


def test_a_held_out_set_that_shares_a_file_is_advised_against(folder: Path) -> None:
    text_shard(folder, name="both", files={"law": "a law", "held": "held out"})
    plan = planned(folder, held_out(folder / "both"))
    found = [sentence for sentence in plan.advice if "is in part trained on" in sentence]
    assert found == [
        f"evaluate.heldout.h.prefix={folder / 'both'} is in part trained on, as data.sources.law: "
        f"both were made from 1 of the same files, as {folder / 'text' / 'law.jsonl'}; hold out "
        "other documents."
    ]


def test_two_held_out_sets_that_are_the_same_are_advised_against(folder: Path) -> None:
    other = f"evaluate.heldout.g.prefix={folder / 'text' / '..' / 'held'}"
    plan = planned(folder, held_out(folder / "held"), other)
    assert any("hold the same tokens: both sets have the same loss" in s for s in plan.advice)
    assert not any("the same" in s for s in planned(folder, held_out(folder / "held")).advice)


@pytest.mark.parametrize("name", ["another way there", "hard links", "a copy"])
def test_a_source_that_is_named_twice_is_refused(folder: Path, name: str) -> None:
    prefix = SAME[name](folder)  # type: ignore[operator]
    message = refusal(folder, f"data.sources.again.prefix={prefix}")
    assert "holds the same tokens as" in message
    assert "name them once, with both weights added up" in message


def test_shards_of_the_same_size_are_no_matter(folder: Path) -> None:
    text_shard(folder, name="waw", files={"waw": "a waw"})
    plan = planned(folder, held_out(folder / "waw"), f"data.sources.web.prefix={folder / 'web'}")
    assert plan.sources[0].available_tokens == os.stat(folder / "waw.bin").st_size / 2


@pytest.mark.parametrize("extra", [1, 40])
def test_a_tokenizer_with_more_ids_than_the_model_has_rows(folder: Path, extra: int) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 257 - extra}))
    message = f"has a tokenizer of 257 ids, but a vocab_size of {257 - extra} rows"
    assert message in refusal(folder)
    message = f"holds id 256 at token 14, but ids must be in 0..{256 - extra};"
    assert message in refusal(folder, "model.allow_unhealthy=true")


def test_ids_that_no_text_holds_may_be_beyond_the_rows(folder: Path) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 256}))
    write_shard(folder / "law", documents=[range(200)], vocab_size=257)
    (folder / "law.json").unlink()
    assert planned(folder, "model.allow_unhealthy=true").steps == 10


FOREIGN = {
    "an id beyond": ([5, 300, *[1] * 90], "holds id 300 at token 1, but ids must be in 0..256;"),
    "a negative one": ([*[1] * 90, -100], "holds id -100 at token 90, but ids must be in 0..256;"),
    "far in": ([*[1] * 3_000_000, 257], "holds id 257 at token 3000000, but ids must be in"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("role", ["data.sources.law", "evaluate.heldout.h"])
def test_ids_that_the_model_does_not_have(folder: Path, name: str, role: str) -> None:
    ids, message = FOREIGN[name]
    write_shard(folder / "foreign", documents=[np.zeros(len(ids))], vocab_size=70_000)
    np.array(ids, dtype="<i4").tofile(folder / "foreign.bin")
    assert message in refusal(folder, f"{role}.prefix={folder / 'foreign'}")


def test_a_document_that_is_left_out_of_a_foreign_index_is_not_trained_on(folder: Path) -> None:
    """An index can name some of the documents in PREFIX.bin alone; nobody may then train on all."""
    write_shard(folder / "law", documents=[[1] * 50, [2] * 50, [3] * 50], vocab_size=257)
    (folder / "law.json").unlink()
    parts = [np.array([50, 50], "<i4"), np.array([0, 200], "<i8"), np.array([0, 1, 2], "<i8")]
    head = HEADER.pack(MAGIC, 1, 8, 2, 3)
    (folder / "law.idx").write_bytes(head + b"".join(part.tobytes() for part in parts))
    message = refusal(folder)
    assert "has sequences that do not lie end to end" in message
    merge_shards([folder / "law"], output_prefix=folder / "laid")
    assert planned(folder, f"data.sources.law.prefix={folder / 'laid'}").sources[0].tokens > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.packing=best_fit",), "law.pack32 does not exist, but data.packing=best_fit needs"),
        (("data.order=megatron", "seed=-1"), "seed=-1 "),
        (("evaluate.prompts={}/prompts.txt",), "prompts.txt cannot be read as UTF-8 text: 'utf-8'"),
    ],
)
def test_what_a_rank_opens_is_opened(folder: Path, settings: tuple[str, ...], message: str) -> None:
    (folder / "prompts.txt").write_bytes(b"caf\xe9\n")
    assert message in refusal(folder, *(s.format(folder) for s in settings))


WITHOUT_UNKNOWN = {
    "Unigram": models.Unigram([("a", -1.0), ("b", -2.0)]),
    "WordLevel": models.WordLevel({"a": 0, "b": 1}),
    "BPE": models.BPE({"a": 0, "b": 1}, []),
}


@pytest.mark.parametrize("kind", WITHOUT_UNKNOWN)
def test_a_prompt_that_gives_no_ids_is_named(tmp_path: Path, kind: str) -> None:
    made = tokenizers.Tokenizer(WITHOUT_UNKNOWN[kind])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "prompts").write_text("a\n\nz\n")
    (tmp_path / "good").write_text("a\nb\n")
    check_prompts(str(tmp_path / "good"), tokenizer=tokenizer, vocab_size=2)
    with pytest.raises(DataError, match=r"the prompt 'z' (cannot be encoded|has no ids)"):
        check_prompts(str(tmp_path / "prompts"), tokenizer=tokenizer, vocab_size=2)
    with pytest.raises(DataError, match="the prompt 'b' has id 1, but the model has 1 rows"):
        check_prompts(str(tmp_path / "good"), tokenizer=tokenizer, vocab_size=1)


@pytest.mark.parametrize("run_dir", ["file", "file/run", "text/law.jsonl/run/deep"])
def test_a_run_folder_that_cannot_be_is_named(folder: Path, run_dir: str) -> None:
    (folder / "file").write_text("")
    message = refusal(folder, f"run_dir={folder / run_dir}")
    assert f"run_dir={folder / run_dir} cannot be written: {folder}" in message
    assert "is no folder; choose" in message


def trained(folder: Path, *, steps: int = 5) -> None:
    """What a run leaves that was stopped after ``steps``."""
    config = config_of(folder)
    data = TrainingData.open(config.data, seed=config.seed, shards=source_shards(config))
    root = folder / "run" / "checkpoints"
    root.mkdir(parents=True)
    start = small.claim(root)
    partial = small.write_partial(root, step=steps, start=start)
    manifest = replace(
        small.manifest_of(partial, step=steps, start=start),
        data=data.record(steps),
        architecture=asdict(read_architecture(folder / "model")),
    )
    folders.publish(root, partial=partial, manifest=manifest, start=start)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("seed=77",), DataError, "seed is 77, but the run began with"),
        (("data.order=megatron",), DataError, "data.order is megatron, but the run began with key"),
        (("data.sources.law.prefix={}/web",), DataError, "law holds other tokens than those"),
        (("data.sources.law.prefix={}/held",), DataError, "law holds other tokens than those"),
        (("data.sequence_length=16",), ConfigError, "differs from what was trained"),
    ],
)
def test_a_run_goes_on_with_what_it_began_with(
    folder: Path, settings: tuple[str, ...], error: type[Exception], message: str
) -> None:
    trained(folder)
    assert planned(folder).steps == 10
    with pytest.raises(error, match=message):
        planned(folder, *(s.format(folder) for s in settings))


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 2}, {"rms_norm_eps": 1e-6}, {"tie_word_embeddings": True}]
)
def test_a_run_goes_on_with_its_model(folder: Path, change: dict[str, object]) -> None:
    trained(folder)
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match="is of another model: its"):
        planned(folder)


@pytest.fixture
def curated(folder: Path) -> Path:
    """A source ``clean`` whose text was deduplicated and decontaminated."""
    steps = [step("deduplicate", "law"), decontaminated("law")]
    texts = [f"a clean law number {n}" for n in range(40)]
    write_curated(folder / "out", steps, texts={"law": texts})
    tokenize(
        [folder / "out"],
        tokenizer=folder / "model",
        output_prefix=folder / "clean",
        workers=1,
    )
    return folder


def clean(folder: Path) -> str:
    return f"data.sources.law.prefix={folder / 'clean'}"


REQUIRED = "data.require='deduplicated, decontaminated:mmlu'"


def test_text_that_has_what_is_required(curated: Path) -> None:
    plan = planned(curated, clean(curated), REQUIRED)
    assert [s.name for s in plan.curated["law"][0].steps] == ["deduplicate", "decontaminate"]
    assert "Curated      law: deduplicated, decontaminated, decontaminated:mmlu" in plan.render()
    data = TrainingData.open(
        config_of(curated, clean(curated)).data,
        seed=1,
        shards={"law": curated / "clean"},
        steps=10,
    )
    record = DataRecord.from_json(json.loads(json.dumps(data.record(3))))
    assert record.curations == {"law": (plan.curated["law"][0].fingerprint,)}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ([REQUIRED], "deduplicated and decontaminated:mmlu, as data.require demands"),
        (["data.sources.web.require=filtered"], "filtered, as data.sources.web.require demands"),
        ([REQUIRED, "data.sources.web.require=balanced"], "balanced, as data.sources.web.require"),
    ],
)
def test_text_that_lacks_it_is_refused(curated: Path, settings: list[str], missing: str) -> None:
    """``law`` has all of it, ``web`` nothing."""
    web = f"data.sources.web.prefix={curated / 'web'}"
    message = refusal(curated, clean(curated), web, *settings)
    assert f"{web} has no record of being {missing}" in message
    assert "data.sources.law" not in message
    warned = planned(curated, clean(curated), web, *settings, "data.on_missing=warn")
    assert next(s for s in warned.advice if "has no record of being" in s).startswith(web)
    # A source of which nothing is demanded.
    planned(curated, clean(curated), web, REQUIRED, "data.sources.web.require=none")


def test_generated_text_is_no_curated_text(curated: Path) -> None:
    web = "data.sources.web.synthetic.documents=50"
    assert "data.sources.web.prefix=generated text has no record" in refusal(
        curated, clean(curated), web, REQUIRED
    )


def test_a_demand_that_nothing_meets_is_a_typo(folder: Path) -> None:
    message = refusal(folder, "data.require='deduplicate, decontaminated:a'")
    assert message.startswith(
        "data.require=deduplicate is nothing that curation does; use filtered"
    )


def test_a_held_out_set_of_the_same_raw_files_is_advised_against(curated: Path) -> None:
    """Curated apart: neither the tokens nor the files that were tokenized are the same."""
    write_curated(curated / "late", [step("filter", "law")], texts={"law": ["another", "law"]})
    tokenize(
        [curated / "late"], tokenizer=curated / "model", output_prefix=curated / "h", workers=1
    )
    advice = planned(curated, clean(curated), held_out(curated / "h")).advice
    told = "and data.sources.law go back to the same files, as raw/law.jsonl, which were curated"
    assert any(told in sentence for sentence in advice)
    assert not any("go back" in s for s in planned(curated, held_out(curated / "h")).advice)
