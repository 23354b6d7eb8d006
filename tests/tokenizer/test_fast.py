# SPDX-License-Identifier: Apache-2.0
"""fastokens gives the ids of tokenizers, special tokens in the text among them, or is not used."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from megacpt.tokenizer import fast, load_tokenizer
from megacpt.tokenizer.fast import (
    FastBackend,
    differing_text,
    load_fast,
    may_overlap,
    probes,
)
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


def backend(made: tokenizers.Tokenizer) -> HuggingFaceBackend:
    return HuggingFaceBackend(made.to_str().encode(), path=Path("made"))


def byte_level(**options: Any) -> tokenizers.Tokenizer:
    """A small BPE of the kind of GPT-2, Llama 3, Qwen and SmolLM2."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the law of the land, don't 123 " * 50, *probes([])], trainer)
    made.add_special_tokens(["<|end|>", AddedToken("<|pad|>", **options)])
    made.add_tokens([AddedToken("<tool>", **options), "<a"])
    return made


@pytest.fixture(scope="module")
def pair() -> tuple[FastBackend, HuggingFaceBackend]:
    reference = backend(byte_level())
    fast = load_fast(reference)
    assert fast is not None
    return fast, reference


PIECES = [
    "<|end|>",
    "<|pad|>",
    "<tool>",
    "<a",
    "<",
    " ",
    "  ",
    "\n",
    "law",
    "don't",
    "日",
    "1",
    "é",
]


@given(words=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=12))
@settings(max_examples=300, deadline=None)
def test_ids_are_equal_on_adversarial_texts(
    pair: tuple[FastBackend, HuggingFaceBackend], words: list[str]
) -> None:
    fast, reference = pair
    texts = ["".join(words), " ".join(words)]
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    for special in (True, False):
        assert differing_text(texts, fast=fast, reference=reference, special=special) is None


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_of_added_tokens_are_understood_or_it_is_not_used(flag: str) -> None:
    reference = backend(byte_level(**{flag: True}))
    fast = load_fast(reference)
    texts = ["a <tool> b<tool>c  <|pad|>\n<|pad|>x", "<tool><tool> <|pad|>", "no<tool>w <tool>."]
    if fast is not None:
        assert differing_text(texts, fast=fast, reference=reference, special=True) is None


def test_a_kind_it_does_not_know_is_left_to_tokenizers() -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"law": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    assert load_fast(backend(made)) is None


def test_it_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    reference = load_tokenizer(TINY).backend
    assert isinstance(reference, HuggingFaceBackend)
    assert load_fast(reference) is None


def test_stored_truncation_and_padding_are_not_applied(tmp_path: Path) -> None:
    made = byte_level()
    made.enable_truncation(2)
    made.enable_padding(length=8)
    assert json.loads(made.to_str())["truncation"]
    fast = load_fast(backend(made))
    assert fast is not None
    assert fast.encode(["the law of the land"], special=True).ids.size > 2


def test_it_can_be_read_meanwhile() -> None:
    reference = load_tokenizer(TINY, fast=True).backend
    assert isinstance(reference, HuggingFaceBackend)
    assert reference.fast is not None
    assert load_fast(reference) is reference.fast.result()


def test_a_difference_is_found_where_it_is(pair: tuple[FastBackend, HuggingFaceBackend]) -> None:
    fast, _ = pair
    other = backend(byte_level())
    other._tokenizer.add_tokens(["land"])  # the reference of another file
    texts = ["the law", "the land", "land"]
    assert differing_text(texts, fast=fast, reference=other, special=True) == "the land"


def test_the_probes_hold_every_added_token_in_several_surroundings() -> None:
    texts = probes(["<|end|>"])
    assert "<|end|>" in texts
    assert any("a<|end|>b <|end|>  <|end|>\n" in text for text in texts)


CONTENTS = ["<s>", "<s>user", "user", "<t", "t>", "  ", "\n\n", "<", "É", " law", "law ", "12"]
PARTS = [*CONTENTS, " ", "the", "User", "e\u0301", "<S>", "_", "\t", "."]
PLAIN = byte_level().to_str()


@given(
    tokens=st.lists(st.tuples(st.sampled_from(CONTENTS), st.booleans(), st.booleans()), max_size=4),
    normalizer=st.sampled_from([None, normalizers.NFC(), normalizers.Lowercase()]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_no_text_parts_them_whatever_tokens_were_added(
    tokens: list[tuple[str, bool, bool]], normalizer: Any, seed: int
) -> None:
    made = tokenizers.Tokenizer.from_str(PLAIN)
    made.normalizer = normalizer
    made.add_tokens([AddedToken(text, normalized=n, special=s) for text, n, s in tokens])
    reference = backend(made)
    fast = load_fast(reference)
    rng = random.Random(seed)
    texts = ["".join(rng.choices(PARTS, k=rng.randint(1, 7))) for _ in range(30)]
    if fast is not None:
        assert differing_text(texts, fast=fast, reference=reference, special=False) is None


@pytest.mark.parametrize("last", ["<|r|>user", "user<|r|>", "a<|r|>b"])
def test_every_added_token_counts_however_many_there_are(last: str) -> None:
    made = byte_level()
    made.add_special_tokens([f"<|{n}|>" for n in range(100)] + ["<|r|>"])
    assert load_fast(backend(made)) is not None
    made.add_tokens([AddedToken(last, normalized=True)])
    assert load_fast(backend(made)) is None


def test_all_added_tokens_are_probed() -> None:
    made = byte_level()
    made.add_special_tokens([f"<|{n}|>" for n in range(300)])
    tokens = [token.content for token in backend(made).added_tokens.values()]
    assert set(tokens) <= set(probes(tokens))


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [("<a>", "<a>b", True), ("b<a", "a>c", True), ("ab", "ba", True), ("<a>", "<b>", False)],
)
def test_what_may_overlap(one: str, other: str, may: bool) -> None:
    assert may_overlap(one, other=other) is may_overlap(other, other=one) is may


def test_what_only_one_of_them_can_encode_is_a_difference() -> None:
    made = tokenizers.Tokenizer(models.Unigram([("a", -1.0)], None, False))
    strict, lenient = backend(made), backend(byte_level())
    assert differing_text(["a", "z"], fast=strict, reference=strict, special=True) is None
    assert differing_text(["", "z"], fast=lenient, reference=strict, special=True) == "z"


@pytest.mark.parametrize("growth", [-(1 << 40), 0, 1 << 40])
def test_what_is_kept_of_texts_is_forgotten_and_ids_stay(
    growth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "GROWTH_BYTES", growth)
    content = (Path(__file__).parents[2] / "configs/model/tiny/tokenizer.json").read_bytes()
    backend = fast.read_fast(content)
    assert isinstance(backend, fast.FastBackend)
    first, texts = backend._tokenizer, [f"document {n} " * 40 for n in range(30)]
    before = backend.encode(texts, special=True)
    for _ in range(3):
        again = backend.encode(texts, special=True)
        assert np.array_equal(again.ids, before.ids)
        assert np.array_equal(again.bounds, before.bounds)
    assert growth == 0 or (backend._tokenizer is not first) == (growth < 0)
