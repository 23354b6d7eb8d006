# SPDX-License-Identifier: Apache-2.0
"""Items and texts made of words that mean nothing, so that nothing is found by chance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from megacpt.curate.decontaminate.items import Item

SYLLABLES = [a + b for a in "bdfgkl" for b in "aeiou"]


class Maker:
    """The same words from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = ["".join(self._random.choices(SYLLABLES, k=3)) for _ in range(800)]

    def words(self, count: int) -> str:
        return " ".join(self._random.choices(self._words, k=count))

    def sentence(self, count: int) -> str:
        return self.words(count).capitalize() + "."

    def text(self, count: int) -> str:
        return " ".join(self.sentence(12) for _ in range(count // 12))

    def item(self, count: int) -> Item:
        """Of a question of ``count`` words with four options, of which the second is right."""
        options = tuple(self.words(4) for _ in range(4))
        question = self.words(count).capitalize() + "?"
        return Item(question=(question,), answer=(options[1],), options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A way in which an item gets into a text."""

    name: str
    text: str


def planted(item: Item, *, maker: Maker) -> Iterator[Planted]:
    question, options, answer = item.question[0], item.options, item.answer[0]
    lettered = "\n".join(f"{c}. {o}" for c, o in zip("ABCD", options, strict=False))
    turned = "\n".join(f"({c}) {o}" for c, o in zip("abcd", reversed(options), strict=False))
    verbatim = f"{question}\n{lettered}\nAnswer: {answer}"
    before, after = maker.text(120), maker.text(120)
    yield Planted(name="alone", text=verbatim)
    yield Planted(name="verbatim", text=f"{before}\n{verbatim}\n{after}")
    yield Planted(name="reordered", text=f"{before}\n{question}\n{turned}\n{answer}\n{after}")
    yield Planted(name="case", text=f"{before} {verbatim.upper()} {after}")
    marks = " -- ".join(question.split()).replace("?", " ...")
    yield Planted(name="punctuation", text=f'{before} "{marks}" ({answer}!) {after}')
    lines = "\n  > ".join(verbatim.split())
    yield Planted(name="lines", text=f"{before}\n  > {lines}\n{after}")
    yield Planted(name="deep", text=f"{maker.text(12_000)}\n{verbatim}\n{maker.text(6_000)}")


def paraphrased(item: Item, *, maker: Maker) -> str:
    """Every third word is another one."""
    words = item.question[0].split()
    words[::3] = [maker.words(1) for _ in words[::3]]
    return f"{maker.text(60)} {' '.join(words)} {maker.text(60)}"
