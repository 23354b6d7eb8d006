# SPDX-License-Identifier: Apache-2.0
"""Texts as words, against ``unicodedata`` and a twin in Python."""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megacpt._C import UNICODE_VERSION, NgramIndex, Sketcher
from tests.curate import twins
from tests.curate.twins import is_word, normalised, stands_for, words

HAS_ITS_UNICODE = unicodedata.unidata_version == UNICODE_VERSION
# Of many scripts, each with what joins and separates there; no character is newer than the table.
ALPHABETS = [
    "abcXYZ019 _-.,'\n\t",
    "ÀéßşİıŒŉ÷ªº²¼ \xad\xa0",
    "ΑΩάςσΐᾈϐϑͅ;· ",
    "ЖжЁёҐџ№ ",
    "אבגִּ־״ شـسَ،٠١۲ ",
    "कखािी्१२। বা্ ",
    "漢字々〇仮名ーひらカタｶﾞﾊﾟ、。丽㍿㊊⼈　𠀀 ",
    "กขำิ์ๆ๑ໆາກ្កាឱកា၁မြန် ",
    "한글ㄱ가ힿ ",
    "\uff21\uff42\uff11\uff0cﬁﬅⅣⓐ①\U0001d400\U0001d7d8\U0001d49c ",
    "𞤀𞤢𐐀𐐨𑄐𑄷𝅗🙂👩\u200d💻\ufe0f ",
    "\ud800\udfff\x00\x7f\x80\uffff\U0010ffff ",
    "\u0300\u0301\u20dda\u200bb\u2028c\ufeff ",
]
NUM_WORD_CHARACTERS = 136_427
"""Of ``planes()`` in Unicode 14."""
texts = st.one_of(
    st.lists(
        st.sampled_from(ALPHABETS).flatmap(lambda some: st.text(some, max_size=12)), max_size=14
    ).map("".join),
    st.text(alphabet=st.characters(max_codepoint=0x24F), max_size=200),
    st.text(alphabet="aB 9.", max_size=400),
)


def normalised_here(*some: str) -> list[str]:
    found = Sketcher().sketch(list(some), shingles=False)
    content, bounds = found.normalised.tobytes(), found.text_offsets.tolist()
    return [content[start:stop].decode() for start, stop in pairwise(bounds)]


def words_here(text: str) -> list[tuple[str, int, int]]:
    """With their places, as an index of every single word of the text finds them."""
    count = int(Sketcher().sketch([text]).num_words[0])
    index = NgramIndex([text], windows=windows_of_one(count))
    hits = index.find([text])
    found = normalised_here(text)[0].split(" ") if count else []
    return list(zip(found, hits.starts.tolist(), hits.stops.tolist(), strict=True))


def windows_of_one(count: int) -> npt.NDArray[np.int64]:
    return np.array([[0, n, 1] for n in range(count)], dtype=np.int64).reshape(-1, 3)


@given(text=texts)
@example("")
@example("e\u0301" + "x" * 63 + "\u00e9y")
@example("x" * 64)
@example("漢" + "a" * 64 + " ")
@example("a" * 63 + "漢\u0301b")
@settings(max_examples=600, deadline=None)
def test_words_are_those_of_the_twin(text: str) -> None:
    expected = words(text)
    assert normalised_here(text) == [" ".join(word.text for word in expected)]
    assert words_here(text) == [(word.text, word.start, word.stop) for word in expected]


@given(text=texts)
@settings(max_examples=200, deadline=None)
def test_words_of_words_are_the_same(text: str) -> None:
    once = normalised_here(text)
    assert normalised_here(*once) == once


@given(some=st.lists(texts, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_text_is_the_same_beside_others(some: list[str]) -> None:
    assert normalised_here(*some) == [normalised(text) for text in some]


def test_where_blocks_of_ascii_meet_others() -> None:
    """At every place of a block of 64 a word ends, begins, goes on or meets another script."""
    pieces = ["a", " ", "Zz 9", "é", "漢", "\u0301", "—", "한 "]
    several = [
        "b" * shift + left + "c" * width + right + "d." * 40
        for shift in (0, 1, 61, 62, 63, 64, 65)
        for left in pieces
        for width in (0, 1, 63, 64)
        for right in pieces
    ]
    assert normalised_here(*several) == [normalised(text) for text in several]


@pytest.mark.parametrize(
    ("rule", "instead"),
    [
        ("stands_for", str),
        ("stands_for", lambda char: char.casefold()[0]),
        ("is_word", lambda letter: False),
    ],
)
def test_the_alphabets_need_every_rule(
    rule: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one of the rules the twin has other words."""
    assert normalised_here(*ALPHABETS) == [normalised(text) for text in ALPHABETS]
    monkeypatch.setattr(twins, rule, instead)
    assert normalised_here(*ALPHABETS) != [normalised(text) for text in ALPHABETS]


def planes() -> list[str]:
    """All characters of planes that have letters, and some of the others."""
    return [chr(code) for code in (*range(0x323B0), *range(0xDFF00, 0xE1000), 0x10FFFD)]


def test_characters_are_those_of_unicodedata() -> None:
    """Of every character: what stands for it, and how it joins the letters before and after it."""
    chars = planes()
    after_latin = normalised_here(*(f"a{char}a" for char in chars))
    after_han = normalised_here(*(f"字{char}" for char in chars))
    for char, latin, han in zip(chars, after_latin, after_han, strict=True):
        image = stands_for(char)
        major = unicodedata.category(image)[0]
        if major not in "LMN":
            expected = "a a", "字"
        elif major == "M":
            expected = f"a{image}a", f"字{image}"
        elif major == "L" and is_word(image):
            expected = f"a {image} a", f"字 {image}"
        else:
            expected = f"a{image}a", f"字 {image}"
        # What a newer Python knows beyond the table separates here.
        is_newer = not HAS_ITS_UNICODE and (latin, han) == ("a a", "字")
        assert (latin, han) == expected or is_newer, hex(ord(char))


def test_most_characters_are_words_whatever_python_runs() -> None:
    """So that the table cannot be empty where a newer Python is let off."""
    found = Sketcher().sketch(planes(), normalised=False, shingles=False)
    assert int(found.num_words.sum()) == NUM_WORD_CHARACTERS


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["nested"]])
def test_what_is_no_string_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match="item 1 is not"):
        Sketcher().sketch(["a", bad])  # type: ignore[list-item]


def test_a_string_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError):
        Sketcher().sketch("text")  # type: ignore[arg-type]


def test_strings_are_not_kept() -> None:
    text = "".join(["some ", "text"])
    before = sys.getrefcount(text)
    Sketcher().sketch([text])
    NgramIndex([text], windows=windows_of_one(1)).find([text])
    assert sys.getrefcount(text) == before
