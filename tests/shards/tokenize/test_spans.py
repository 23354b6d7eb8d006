# SPDX-License-Identifier: Apache-2.0
"""Text that a curation says is not learned: read like any other, with 0 in PREFIX.mask."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, processors

from megacpt.curate import pipeline
from megacpt.curate.config import read_config
from megacpt.errors import DataError
from megacpt.samples.heldout import HeldoutSet
from megacpt.samples.training_data import TrainingData
from megacpt.shards.chat import tokenize_chat
from megacpt.shards.chat.template import choose_template
from megacpt.shards.inspect import inspect_shard
from megacpt.shards.loss_mask import mask_path, open_mask
from megacpt.shards.manifest import Manifest, chained, manifest_json, shard_identity, verify
from megacpt.shards.merge import merge_shards
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from megacpt.shards.tokenize.join import merge
from megacpt.shards.writer import ShardWriter
from megacpt.tokenizer import load_tokenizer
from megacpt.vocabulary.corpus import read_texts as texts_of
from tests.corpus.cases import write_jsonl
from tests.curate.decontaminate.cases import Maker
from tests.samples.test_training_data import config_of, whole
from tests.shards.chat.templates import write_tokenizer
from tests.shards.tokenize.test_encode import sentencepiece_model

MAKER = Maker(5)
QUESTIONS = [f"{MAKER.words(9)} 猫 é {MAKER.words(9)}?" for _ in range(3)]
CLEAN = [MAKER.text(120) for _ in range(40)]
DIRTY = [
    f"{CLEAN[0]} {QUESTIONS[0]} {CLEAN[1]}",
    QUESTIONS[1],
    f"🙂 {QUESTIONS[2].upper()} or {QUESTIONS[0]}\n\n{CLEAN[2]}",
]
TEXTS = [*CLEAN[:20], DIRTY[0], "", *CLEAN[20:], *DIRTY[1:]]


def curate(folder: Path, *more: str, texts: list[str] = TEXTS, output: str = "out") -> Path:
    write_jsonl(folder / "raw.jsonl", texts)
    (folder / "quiz.jsonl").write_text(
        "".join(f"{json.dumps({'question': q})}\n" for q in QUESTIONS)
    )
    words = [
        f"output={folder / output}",
        "form=jsonl",
        f"sources.law.files={folder / 'raw.jsonl'}",
        f"decontaminate.suites.quiz.path={folder / 'quiz.jsonl'}",
        "decontaminate.action=mask",
        *more,
    ]
    pipeline.curate(read_config(None, overrides=words))
    return folder / output / "law"


@pytest.fixture
def law(tmp_path: Path) -> Path:
    return curate(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model")


def make(inputs: Path, prefix: Path, *, model: Path, **options: Any) -> Manifest:
    options = {"workers": 1} | options
    manifest = tokenize([inputs], tokenizer=model, output_prefix=prefix, **options)
    assert manifest is not None
    return manifest


def hidden(prefix: Path, *, model: Path) -> list[str]:
    """By document, the text of its tokens that are not learned."""
    mask_T, shard = open_mask(prefix, manifest=verify(prefix)), IndexedShard(prefix)
    assert mask_T is not None
    tokenizer, bounds = load_tokenizer(model), shard.starts(0, stop=shard.num_documents)
    return [
        tokenizer.decode(shard.span(start, stop=stop)[mask_T[start:stop] == 0])
        for start, stop in pairwise(bounds)
    ]


def words_of(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def put_bos_first(model: Path) -> None:
    made = Tokenizer.from_file(str(model / "tokenizer.json"))
    bos = ("<|im_start|>", made.token_to_id("<|im_start|>"))
    made.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[bos]
    )
    made.save(str(model / "tokenizer.json"))


@pytest.mark.parametrize("bos", [False, True])
def test_what_was_found_is_read_and_not_learned(
    law: Path, model: Path, tmp_path: Path, bos: bool
) -> None:
    if bos:
        put_bos_first(model)
    manifest = make(law, tmp_path / "masked", model=model)
    found = hidden(tmp_path / "masked", model=model)
    assert [n for n, text in enumerate(found) if text] == [20, 41, 42]
    assert words_of(found[20]) == words_of(QUESTIONS[0])
    assert words_of(found[41]) == words_of(QUESTIONS[1])
    both = words_of(QUESTIONS[2]) + words_of(QUESTIONS[0])
    assert "".join(words_of(found[42])) == "".join(both)
    make(tmp_path / "raw.jsonl", tmp_path / "plain", model=model)
    for kind in ("bin", "idx"):
        assert (
            Path(f"{tmp_path}/masked.{kind}").read_bytes()
            == Path(f"{tmp_path}/plain.{kind}").read_bytes()
        )
    assert (manifest.documents, manifest.empty_documents, manifest.is_chat) == (43, 1, False)
    assert not mask_path(tmp_path / "plain").exists()
    assert inspect_shard(tmp_path / "plain").learned is None
    learned = inspect_shard(tmp_path / "masked").learned
    assert learned == mask_path(tmp_path / "masked").read_bytes().count(1)
    assert shard_identity(IndexedShard(tmp_path / "masked")) != shard_identity(
        IndexedShard(tmp_path / "plain")
    )


def test_the_mask_does_not_depend_on_pieces_or_tasks(model: Path, tmp_path: Path) -> None:
    """Packed files are not cut, so each is a piece."""
    write_jsonl(tmp_path / "web.jsonl", [CLEAN[0], DIRTY[1], CLEAN[1]])
    curate(tmp_path, "form=jsonl_zst", f"sources.web.files={tmp_path / 'web.jsonl'}")
    made = {name: tmp_path / name for name in ("whole", "cut", "tasks")}
    make(tmp_path / "out", made["whole"], model=model)
    make(tmp_path / "out", made["cut"], model=model, piece_size=1, workers=2)
    for task in (1, 0):
        options = {"output_prefix": made["tasks"], "task": (task, 2), "piece_size": 1}
        tokenize([tmp_path / "out"], tokenizer=model, **options)
    merge(made["tasks"])
    (mask,) = {mask_path(prefix).read_bytes() for prefix in made.values()}
    assert 0 in mask


def write_numbered(prefix: Path, *, like: Manifest, mask_T: np.ndarray) -> None:
    """A shard whose id at place n is n."""
    tokens = np.arange(mask_T.size, dtype=like.dtype)
    with ShardWriter(prefix, dtype=tokens.dtype) as writer:
        writer.add_many(tokens, lengths=np.full(mask_T.size // 50, 50))
        writer.add_mask(mask_T)
        writer.publish(
            describe=lambda files: manifest_json(
                chained(replace(like, vocab_size=60_000, **asdict(files)))
            )
        )


@pytest.mark.parametrize("replies_only", [False, True])
@pytest.mark.parametrize("more", [{}, {"document_mask": True}], ids=str)
def test_no_objective_learns_it(
    law: Path, model: Path, tmp_path: Path, replies_only: bool, more: dict[str, Any]
) -> None:
    like = make(law, tmp_path / "masked", model=model)
    mask_T = np.random.default_rng(3).integers(0, 2, size=4000, dtype=np.uint8)
    write_numbered(tmp_path / "numbered", like=like, mask_T=mask_T)
    data = TrainingData.open(
        config_of(["law"], sequence_length=32, batch=4, **more),
        seed=1,
        shards={"law": tmp_path / "numbered"},
        replies_only=replies_only,
    )
    batches = [whole(data, step) for step in range(20)]
    for batch in batches:
        np.testing.assert_array_equal(batch.loss_mask_BS, mask_T[batch.labels_BS])


def test_masked_text_and_other_text_are_one_shard(law: Path, model: Path, tmp_path: Path) -> None:
    masked, plain = tmp_path / "masked", tmp_path / "plain"
    make(law, masked, model=model)
    make(write_jsonl(tmp_path / "more.jsonl", CLEAN[:3]), plain, model=model)
    merge_shards([plain, masked], output_prefix=tmp_path / "both")
    assert verify(tmp_path / "both").tokens == mask_path(tmp_path / "both").stat().st_size
    whole = bytes([1]) * IndexedShard(plain).num_tokens
    assert mask_path(tmp_path / "both").read_bytes() == whole + mask_path(masked).read_bytes()


def test_a_mask_that_a_crash_has_damaged_is_not_joined(
    law: Path, model: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "masked"
    tokenize([law], tokenizer=model, output_prefix=prefix, task=(0, 1))
    (log,) = Path(f"{prefix}.pieces").glob("*.mask")
    log.write_bytes(bytes([1]) * log.stat().st_size)
    with pytest.raises(DataError, match=r"\.mask is damaged"):
        merge(prefix)


def test_files_in_which_nothing_was_found_are_learned_whole(model: Path, tmp_path: Path) -> None:
    law = curate(tmp_path, texts=CLEAN)
    assert make(law, tmp_path / "clean", model=model).mask_sha256 == ""


def test_spans_go_with_the_lines(law: Path, model: Path, tmp_path: Path) -> None:
    """Without the account, beside files of no curation, and through another curation of both."""
    shutil.copytree(law, tmp_path / "bare")
    own = write_jsonl(tmp_path / "own.jsonl", CLEAN[:2])
    words = [
        f"output={tmp_path / 'again'}",
        f"sources.law.files={own},{law}",
        "deduplicate.near=null",
    ]
    pipeline.curate(read_config(None, overrides=words))
    for name, inputs, expected in (
        ("bare", [tmp_path / "bare"], [20, 41, 42]),
        ("beside", [own, law], [22, 43, 44]),
        ("again", [tmp_path / "again" / "law"], [20, 41, 42]),
    ):
        tokenize(inputs, tokenizer=model, output_prefix=tmp_path / name / "out", workers=1)
        found = hidden(tmp_path / name / "out", model=model)
        assert [n for n, text in enumerate(found) if text] == expected


def test_pieces_without_spans_are_filled_up(model: Path, tmp_path: Path) -> None:
    """Of three packed files, which are not cut, the one in the middle has spans."""
    curate(tmp_path, "form=jsonl_zst")
    files = [tmp_path / f"{n}.jsonl.gz" for n in range(2)]
    for path in files:
        write_jsonl(path, CLEAN[:3])
    inputs = [files[0], tmp_path / "out" / "law", files[1]]
    tokenize(inputs, tokenizer=model, output_prefix=tmp_path / "three", piece_size=1, workers=1)
    found = hidden(tmp_path / "three", model=model)
    assert [n for n, text in enumerate(found) if text] == [23, 44, 45]


def test_a_tokenizer_that_does_not_know_places_is_refused(law: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"00000.*: there are .*sp.model is no tokenizer.json"):
        make(law, tmp_path / "masked", model=sentencepiece_model(tmp_path))


def test_what_would_lose_them_is_refused(law: Path, model: Path, tmp_path: Path) -> None:
    refused = pytest.raises(
        DataError, match=r"parts of its texts are not to be learned, which is read"
    )
    words = [
        f"output={tmp_path / 'again'}",
        "form=parquet",
        f"sources.law.files={law}",
        "deduplicate={}",
    ]
    with refused:
        pipeline.curate(read_config(None, overrides=words))
    with refused:
        make(law, tmp_path / "masked", model=model, key="id")
    words = [f"output={tmp_path / 'again'}", f"sources.law.files={law}", "sources.law.key=id"]
    with refused:
        pipeline.curate(read_config(None, overrides=[*words, "deduplicate={}"]))
    with refused:
        next(texts_of([str(law)], key="text"))
    table = tmp_path / "law.csv"
    table.write_text("text,megacpt_not_learned\nabc,\n")
    with refused:
        make(table, tmp_path / "masked", model=model)
    rows = pyarrow.table({"text": ["abc"], "megacpt_not_learned": [[[0, 1]]]})
    pyarrow.parquet.write_table(rows, tmp_path / "law.parquet")
    with refused:
        make(tmp_path / "law.parquet", tmp_path / "masked", model=model)
    chat = {"messages": [{"role": "user", "content": "a"}], "megacpt_not_learned": [[0, 1]]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat))
    tokenizer = load_tokenizer(model)
    with refused:
        tokenize_chat(
            [tmp_path / "chat.jsonl"],
            tokenizer=tokenizer,
            output_prefix=tmp_path / "masked",
            template=choose_template("chatml", tokenizer=tokenizer),
        )
    assert not list(tmp_path.glob("masked*"))
    assert not (tmp_path / "again").exists()


def test_a_held_out_set_leaves_it_out(law: Path, model: Path, tmp_path: Path) -> None:
    like = make(law, tmp_path / "masked", model=model)
    mask_T = np.random.default_rng(3).integers(0, 2, size=1000, dtype=np.uint8)
    write_numbered(tmp_path / "numbered", like=like, mask_T=mask_T)
    heldout = HeldoutSet.open(tmp_path / "numbered", sequence_length=64, max_tokens=0)
    batch = heldout.load(range(heldout.num_samples))
    measured = batch.labels_BS[batch.loss_mask_BS == 1]
    assert sorted(measured) == [n for n in range(1, 1000) if mask_T[n]]
    write_numbered(tmp_path / "none", like=like, mask_T=np.zeros_like(mask_T))
    with pytest.raises(DataError, match="has no token to measure"):
        HeldoutSet.open(tmp_path / "none", sequence_length=64, max_tokens=0)


def test_another_mask_is_not_what_was_curated(law: Path, model: Path, tmp_path: Path) -> None:
    make(law, tmp_path / "masked", model=model)
    path = tmp_path / "masked.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_sha256": ""}))
    with pytest.raises(DataError, match=r"masked\.json"):
        verify(tmp_path / "masked")
