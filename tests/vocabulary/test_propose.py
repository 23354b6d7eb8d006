# SPDX-License-Identifier: Apache-2.0
"""Proposals beside the trainer of the tokenizers library, and counts beside its encoder."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers import pre_tokenizers as pre

from megacpt.tokenizer import load_tokenizer
from megacpt.vocabulary.bpe import Bpe
from megacpt.vocabulary.growth import Growth
from megacpt.vocabulary.propose import Counted, count_words, propose
from megacpt.vocabulary.wanted import merges_text, read_wanted
from tests.vocabulary.small_models import KINDS, LEARNED, OTHER, SIZE, trained, write_tokenizer


def read(folder: Path, *, kind: str = "byte-level") -> tuple[Tokenizer, Bpe]:
    return write_tokenizer(folder, kind=kind), Bpe(load_tokenizer(folder))


def test_it_goes_on_as_the_library_s_trainer_would_have(tmp_path: Path) -> None:
    """Trained to 400 and continued by 80 on the same text is trained to 480."""
    _, bpe = read(tmp_path)
    words = count_words(LEARNED, bpe=bpe).words
    growth = Growth(bpe)
    found = propose(words, growth=growth, count=80)
    further = trained(pre.ByteLevel(add_prefix_space=False), size=SIZE + 80)
    expected = json.loads(further.to_str())["model"]
    assert [[p.left, p.right] for p in found] == expected["merges"][-80:]
    assert growth.content()["model"]["vocab"] == expected["vocab"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_counts_the_tokens_that_the_library_makes(kind: str, tmp_path: Path) -> None:
    old, bpe = read(tmp_path, kind=kind)
    counted = count_words(OTHER, bpe=bpe)
    before, after = Growth(bpe), Growth(bpe)
    found = propose(counted.words, growth=after, count=50)
    new = Tokenizer.from_str(json.dumps(after.content()))
    for tokenizer, growth in ((old, before), (new, after)):
        made = sum(len(e.ids) for e in tokenizer.encode_batch(OTHER, add_special_tokens=False))
        expected = made / sum(len(text.split()) for text in OTHER)
        # A mark in front of each text is one of its tokens to SentencePiece alone.
        assert counted.fertility(growth).per_word == pytest.approx(expected, rel=1e-3)
        assert counted.fertility(growth).per_byte == pytest.approx(
            made / sum(len(text.encode()) for text in OTHER), rel=1e-3
        )
    saved = sum(
        number_of(counted, growth=growth) * sign for growth, sign in ((before, 1), (after, -1))
    )
    assert sum(p.saved for p in found) == saved > 0


def number_of(counted: Counted, *, growth: Growth) -> int:
    return round(counted.fertility(growth).per_word * counted.num_words)


def test_each_merge_is_the_most_frequent_pair_of_its_time(tmp_path: Path) -> None:
    """Beside a search that counts every pair anew in each round."""
    _, bpe = read(tmp_path, kind="digits")
    words = count_words(OTHER[:4], bpe=bpe).words
    growth = Growth(bpe)
    for proposal in propose(words, growth=Growth(bpe), count=25):
        pairs: Counter[tuple[int, int]] = Counter()
        for ids, count in words.items():
            cut = growth.merged(ids)
            for pair in pairwise(cut):
                pairs[pair] += count
        new = {
            p: n
            for p, n in pairs.items()
            if growth.string(p[0]) + growth.string(p[1]) not in growth
        }
        best = min(new, key=lambda pair: (-new[pair], pair))
        assert (growth.string(best[0]), growth.string(best[1])) == (proposal.left, proposal.right)
        growth.merge(best)


def test_a_proposal_is_added_as_it_was_found(tmp_path: Path) -> None:
    _, bpe = read(tmp_path)
    growth, again = Growth(bpe), Growth(bpe)
    found = propose(count_words(OTHER, bpe=bpe).words, growth=growth, count=60)
    path = tmp_path / "tokens.txt"
    path.write_text(merges_text("60 merges", lines=[p.line for p in found]))
    again.take(read_wanted(path))
    assert again.content() == growth.content()


def test_what_comes_once_is_not_proposed(tmp_path: Path) -> None:
    _, bpe = read(tmp_path)
    words = count_words(["qzx"], bpe=bpe).words
    assert propose(words, growth=Growth(bpe), count=5) == []
    assert len(propose(words + words, growth=Growth(bpe), count=5)) == 2
