# SPDX-License-Identifier: Apache-2.0
"""Models with tokens added, as transformers reads them, beside the models they were made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megacpt.errors import DataError, EnvironmentError_, ModelError
from megacpt.families import read_architecture
from megacpt.vocabulary import tables as tables_module
from megacpt.vocabulary.add import Added, Choices, add_to_vocabulary
from megacpt.vocabulary.distil import Distillation
from megacpt.vocabulary.rows import RowInit
from megacpt.vocabulary.wanted import Wanted
from tests.family_cases import cases
from tests.multimodal_cases import write_parts
from tests.vocabulary.small_models import END, KINDS, OTHER, write_model, write_tokenizer

WANTED = Wanted(path=Path("words.txt"), words=(" coroutine", " yield", "<|case|>"))
MODELS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "padded": {"padding": 3},
    "much padded": {"padding": 90, "tie_word_embeddings": True},
}


FAMILIES = ("llama_like-granite", "norms-gemma2-tied-biases", "norms-cohere2-tied")
"""They scale embeddings or logits, or bound them."""


def add(source: Path, *, init: RowInit = RowInit.subtokens) -> Added:
    return add_to_vocabulary(
        source, wanted=WANTED, output=source.parent / "grown", choices=Choices(init=init)
    )


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_old_text_the_model_says_the_same_bit_for_bit(
    case: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tmp_path / "model"
    write_model(source, dtype=dtype, **MODELS[case])
    added = add(source)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("model", "grown")]
    texts = [AutoTokenizer.from_pretrained(tmp_path / n) for n in ("model", "grown")]
    # One that holds none of the new tokens.
    text = OTHER[0][:180]
    ids, same = (t(text, return_tensors="pt").input_ids for t in texts)
    assert torch.equal(ids, same)
    with torch.no_grad():
        before, after = (m.model(ids).last_hidden_state for m in models)
        logits, grown = (m(ids).logits for m in models)
    assert torch.equal(before, after)
    # Where BLAS cuts a larger product otherwise, the same sum may round otherwise.
    torch.testing.assert_close(grown[..., : added.growth.first], logits[..., : added.growth.first])
    old, new = (m.state_dict() for m in models)
    for name, value in old.items():
        kept = added.growth.first if value.shape[:1] == (added.vocab_before,) else len(value)
        assert torch.equal(new[name][:kept], value[:kept])
    assert new["model.embed_tokens.weight"].shape[0] == added.vocab_after
    assert added.vocab_after == max(
        added.vocab_before, added.growth.first + len(added.growth.tokens)
    )


@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_the_means_that_transformers_model_gives(tied: bool, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", tie_word_embeddings=tied)
    added = add(tmp_path / "model")
    found = load_file(tmp_path / "grown" / "model.safetensors")
    tables = {
        "model.embed_tokens.weight": model.get_input_embeddings().weight,
        "lm_head.weight": model.get_output_embeddings().weight,
    }
    for name in found.keys() & tables.keys():
        for token in added.growth.tokens:
            mean = tables[name][list(token.parts)].mean(dim=0)
            torch.testing.assert_close(found[name][token.id], mean)
    assert ("lm_head.weight" in found) is not tied


@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_reads_the_new_tokens(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_model(tmp_path / "model", kind=kind)
    added = add(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    ids = tokenizer.encode("a coroutine, <|case|> yield", add_special_tokens=False)
    new = {token.string: token.id for token in added.growth.tokens if not token.is_step}
    assert set(new.values()) <= set(ids)
    assert tokenizer.convert_tokens_to_ids(END) == tokenizer.eos_token_id < added.growth.first
    assert tokenizer.decode(ids).strip() == "a coroutine, <|case|> yield"
    assert read_architecture(tmp_path / "grown").vocab_size == added.vocab_after


def test_all_other_files_travel_and_old_forms_are_brought_up_to_date(tmp_path: Path) -> None:
    source = tmp_path / "model"
    write_model(source)
    stated = json.loads((source / "tokenizer.json").read_text())
    model, end = stated["model"], {"content": END, "special": True, "normalized": False}
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = (" ".join(merge) for merge in model["merges"])
    (source / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"0": end}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "added_tokens.json").write_text(json.dumps({END: 0}))
    for name in ("tokenizer.model", "tekken.json", "LICENSE"):
        (source / name).write_text("of the model")
    added = add(source)
    grown = tmp_path / "grown"
    assert added.left_out == ("tekken.json", "tokenizer.model")
    assert (grown / "LICENSE").read_text() == "of the model"
    assert not any((grown / name).exists() for name in added.left_out)
    new = json.loads((grown / "tokenizer.json").read_text())["model"]
    assert json.loads((grown / "vocab.json").read_text()) == new["vocab"]
    assert (grown / "merges.txt").read_text().splitlines()[1:] == [
        " ".join(m) for m in new["merges"]
    ]
    (beside,) = [token for token in added.growth.tokens if not token.is_merged]
    declared = json.loads((grown / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert declared[str(beside.id)]["content"] == "<|case|>"
    assert json.loads((grown / "added_tokens.json").read_text()) == {END: 0, "<|case|>": beside.id}
    from transformers import GPT2Tokenizer

    slow = GPT2Tokenizer(str(grown / "vocab.json"), str(grown / "merges.txt"))
    assert slow.convert_tokens_to_ids("Ġcoroutine") == new["vocab"]["Ġcoroutine"]


def test_of_several_files_only_those_with_a_table_grow(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = write_model(tmp_path / "one")
    source = tmp_path / "model"
    shutil.copytree(tmp_path / "one", source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="100KB")
    add(source)
    index, before = (
        json.loads((folder / "model.safetensors.index.json").read_text())
        for folder in (tmp_path / "grown", source)
    )
    assert index["weight_map"] == before["weight_map"]
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    sizes = [tensor.nbytes for tensor in grown.state_dict().values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    with_table = {before["weight_map"][n] for n in ("lm_head.weight", "model.embed_tokens.weight")}
    for name in set(before["weight_map"].values()) - with_table:
        old, new = (load_file(folder / name) for folder in (source, tmp_path / "grown"))
        assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize("case", ["llava", "mistral3-tied"])
def test_of_several_parts_the_text_s_tables_grow(case: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    source = tmp_path / "model"
    size = write_tokenizer(source).get_vocab_size()
    model = write_parts(tmp_path / "whole", case=case, vocab_size=size)
    model.save_pretrained(source, max_shard_size="40KB")
    added = add(source)
    grown = AutoModelForImageTextToText.from_pretrained(tmp_path / "grown").eval()
    ids = torch.randint(6, size, (1, 30), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before, after = (m(ids).logits for m in (model, grown))
    assert after.shape[-1] == added.vocab_after == size + len(added.growth.tokens)
    torch.testing.assert_close(after[..., :size], before)
    old, new = model.state_dict(), grown.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(new[name][: len(value)], value) for name, value in old.items())
    with pytest.raises(ModelError, match="is a model of several parts, which --init distil"):
        add_to_vocabulary(
            source,
            wanted=WANTED,
            output=tmp_path / "learned",
            choices=Choices(init=RowInit.distil, texts=OTHER),
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_grow_and_learn(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    case, source = cases()[name], tmp_path / "model"
    size = write_tokenizer(source).get_vocab_size()
    model = replace(case, changes={**case.changes, "vocab_size": size}).write(source)
    choices = Choices(init=RowInit.distil, texts=OTHER, distillation=Distillation(steps=2))
    output = tmp_path / "grown"
    added = add_to_vocabulary(source, wanted=WANTED, output=output, choices=choices)
    grown = AutoModelForCausalLM.from_pretrained(output).eval()
    ids = torch.randint(6, size, (1, 30), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before, after = (m(ids).logits for m in (model, grown))
    assert after.shape[-1] == size + len(added.growth.tokens)
    torch.testing.assert_close(after[..., :size], before)


def test_a_named_special_token_without_a_row_stays_behind_all_others(tmp_path: Path) -> None:
    source = tmp_path / "model"
    write_model(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "[PAD]"}))
    from transformers import AutoTokenizer

    added = add(source)
    assert added.growth.first == added.vocab_before
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert tokenizer.pad_token_id == added.vocab_after


def folder_of(case: str, tmp_path: Path) -> Path:
    source = tmp_path / "model"
    write_model(source)
    if case == "no file":
        (source / "tokenizer.json").unlink()
        (source / "tokenizer.model").write_text("SentencePiece")
    if case == "too few rows":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"vocab_size": 399}))
    if case == "exists":
        (tmp_path / "grown").mkdir()
        (tmp_path / "grown" / "mine").write_text("")
    return source


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("no file", r"has no tokenizer.json; write one with .*AutoTokenizer"),
        ("too few rows", r"the tokenizer has 400 ids, but the model 399 rows"),
        ("exists", r"grown exists, and nothing is written over; choose another folder"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    case: str, problem: str, tmp_path: Path
) -> None:
    source = folder_of(case, tmp_path)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises((ModelError, EnvironmentError_), match=problem):
        add(source)
    assert sorted(tmp_path.rglob("*")) == there


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(tables_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EnvironmentError_, match=r"grown needs .* but .* has 1.0 kB free"):
        add(tmp_path / "model")


def test_distillation_without_a_text_that_holds_the_tokens_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(DataError, match="the text holds none of the new tokens"):
        add(tmp_path / "model", init=RowInit.distil)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_smollm2_says_the_same_on_old_text(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = Wanted(path=Path("w"), words=(" haue", " vpon", " loue", "<|case|>"))
    output = tmp_path / "grown"
    add_to_vocabulary(smollm2, wanted=wanted, output=output, choices=Choices())
    text = "Four score and seven years ago our fathers brought forth on this continent"
    found = []
    for folder in (smollm2, output):
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            found.append((ids, model.model(ids).last_hidden_state, model(ids).logits[..., :49152]))
    assert all(torch.equal(old, new) for old, new in zip(*found, strict=True))
