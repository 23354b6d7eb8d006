# SPDX-License-Identifier: Apache-2.0
"""Grown tokenizers, as the tokenizers library reads them, beside the old ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from megacpt.errors import DataError, ModelError
from megacpt.tokenizer import load_tokenizer
from megacpt.vocabulary.bpe import Bpe
from megacpt.vocabulary.growth import Growth
from megacpt.vocabulary.wanted import Wanted
from tests.vocabulary.small_models import END, KINDS, LEARNED, OTHER, write_tokenizer

WORDS = (" coroutine", " asynchronous", "yield", " __getattr__", "descriptor", " zzyzx")
MARKERS = ("<|case|>", "<|law|>")


def grown(
    folder: Path, *, kind: str, words: tuple[str, ...]
) -> tuple[Tokenizer, Tokenizer, Growth]:
    old = write_tokenizer(folder, kind=kind)
    growth = Growth(Bpe(load_tokenizer(folder)))
    growth.take(Wanted(path=Path("words.txt"), words=words))
    return old, Tokenizer.from_str(json.dumps(growth.content())), growth


@pytest.mark.parametrize("kind", KINDS)
def test_each_wanted_token_is_one_where_it_stands_in_a_text(kind: str, tmp_path: Path) -> None:
    old, new, growth = grown(tmp_path, kind=kind, words=WORDS + MARKERS)
    named = {token.id for token in growth.tokens if not token.is_step}
    for word in WORDS + MARKERS:
        (before,) = old.encode_batch([f"\n{word}"], add_special_tokens=False)
        (found,) = new.encode_batch([f"\n{word}"], add_special_tokens=False)
        assert found.ids[-1] in named, word
        assert len(found.ids) < len(before.ids), word
        assert new.decode(found.ids, skip_special_tokens=False).endswith(word)
        named -= {found.ids[-1]}
    assert not named


@pytest.mark.parametrize("kind", KINDS)
def test_old_ids_change_nowhere_else(kind: str, tmp_path: Path) -> None:
    """Every new id stands for old ids that the text had there: replaced, they give its old ids."""
    old, new, growth = grown(tmp_path, kind=kind, words=WORDS)
    texts = [
        *LEARNED,
        *OTHER,
        *scrambled(OTHER),
        f"a{END}b <|user|><tool> 1234  \n\n \tx",
        "日本 é",
    ]
    changed = 0
    for text in texts:
        before, after = old.encode(text).ids, new.encode(text).ids
        assert [part for number in after for part in growth.parts(number)] == before
        changed += before != after
    assert changed > len(OTHER) // 2


def scrambled(texts: list[str]) -> list[str]:
    """Words and halves of words in another order."""
    draw = random.Random(3)
    pieces = [piece for text in texts for word in text.split(" ") for piece in (word, word[1:])]
    return ["".join(draw.choices([*pieces, " ", " ", *WORDS], k=300)) for _ in range(8)]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_were_there_keep_their_ids(kind: str, tmp_path: Path) -> None:
    old, new, growth = grown(tmp_path, kind=kind, words=WORDS + MARKERS)
    before, after = old.get_vocab(), new.get_vocab()
    assert {text: after[text] for text in before} == before
    assert sorted(after.values()) == list(range(len(before) + len(growth.tokens)))
    assert growth.first == len(before)


def test_added_tokens_out_of_the_vocabulary_would_be_renumbered(tmp_path: Path) -> None:
    """Why ``content`` writes them there: without, the library gives them other ids."""
    old, _, growth = grown(tmp_path, kind="added-behind", words=WORDS)
    content = growth.content()
    for text in (END, "<|user|>", "<tool>"):
        del content["model"]["vocab"][text]
    assert Tokenizer.from_str(json.dumps(content)).token_to_id(END) != old.token_to_id(END)


def test_a_token_found_before_words_would_cut_other_words(tmp_path: Path) -> None:
    """Why words are merged: what add_tokens does to words that only hold the new one."""
    old, new, _ = grown(tmp_path, kind="byte-level", words=("ass",))
    beside = Tokenizer.from_str(old.to_str())
    beside.add_tokens(["ass"])
    text = " class"
    assert len(old.encode(text).ids) == 1
    assert new.encode(text).ids == old.encode(text).ids
    assert beside.encode(text).ids != old.encode(text).ids


def test_known_tokens_and_steps_are_told(tmp_path: Path) -> None:
    _, _, growth = grown(tmp_path, kind="byte-level", words=(" the", " coroutine"))
    assert growth.known == [" the"]
    *steps, last = growth.tokens
    assert [step.is_step for step in steps] == [True] * len(steps)
    assert not last.is_step
    assert len(steps) == len(last.parts) - 2


def test_merges_are_taken_as_they_stand(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    bpe = Bpe(load_tokenizer(tmp_path))
    growth = Growth(bpe)
    old = next(iter(bpe.merges))
    merges = (old, ("q", "z"), ("qz", "j"), ("qz", "j"))
    growth.take(Wanted(path=Path("m.txt"), merges=merges))
    assert [token.string for token in growth.tokens] == ["qz", "qzj"]
    assert growth.known == ["".join(old), "qzj"]
    assert growth.content()["model"]["merges"][-2:] == [("q", "z"), ("qz", "j")]
    old_form = Bpe(load_tokenizer(tmp_path))
    old_form.stated["model"]["merges"] = ["a b"]
    assert Growth(old_form).content()["model"]["merges"] == ["a b"]


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (Wanted(path=Path("f"), words=(" the",)), "f: all 1 tokens are in the vocabulary already"),
        (Wanted(path=Path("f"), merges=(("qz", "j"),)), "f: qz j joins qz, which is neither"),
    ],
)
def test_what_cannot_be_added_is_refused(wanted: Wanted, problem: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(DataError, match=problem):
        Growth(Bpe(load_tokenizer(tmp_path))).take(wanted)


def test_a_character_without_a_token_cannot_be_merged(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, kind="sentence-piece")
    with pytest.raises(DataError, match=r"'日本' has a character .* \(it makes <0xE6> of it\)"):
        Growth(Bpe(load_tokenizer(tmp_path))).take(Wanted(path=Path("f"), words=("日本",)))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"type": "WordLevel", "vocab": {END: 0}, "unk_token": END}, "tokenizer.json is WordLevel"),
        ({"continuing_subword_prefix": "##"}, "tokenizer.json has a continuing_subword_prefix"),
    ],
)
def test_other_tokenizers_are_refused(
    change: dict[str, object], problem: str, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    stated = json.loads(path.read_text())
    stated["model"] = change if "type" in change else stated["model"] | change
    if "type" not in change:
        stated["model"] |= {"vocab": {END: 0}, "merges": []}
    path.write_text(json.dumps(stated))
    with pytest.raises(ModelError, match=problem):
        Bpe(load_tokenizer(tmp_path))
