# SPDX-License-Identifier: Apache-2.0
"""What `megacpt decontaminate` finds of items that were planted in text, and in text without any.

    python tools/bench/decontamination.py --suite gsm8k=test.jsonl --suite bbh=BIG-Bench-Hard/bbh \\
        --texts '/usr/lib/python3*/**/*.py' --texts '/usr/share/doc/**/copyright'

Each item is planted in every way in text of its own; found is one whose question is named. The ways
below the line change words, and are not all found. Then all ``--texts``, a file a document, are
searched as they are: what is found there is found wrongly, if they hold none of the suites.
"""

from __future__ import annotations

import argparse
import glob
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.curate.decontaminate.items import Item, Part, Suite
from megacpt.curate.decontaminate.search import Search
from megacpt.curate.decontaminate.settings import DecontaminateConfig, SuiteConfig
from megacpt.curate.decontaminate.suites import read_suite

BATCH = 200
CHANGED = ("a word in twenty", "a word in ten", "a word in five", "a word in three", "words moved")
"""Ways that need not be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A text that holds an item."""

    way: str
    text: str


class Filler:
    """Words that mean nothing: the same from the same seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        self._words = ["".join(self.draw.choices(syllables, k=3)) for _ in range(800)]

    def words(self, count: int) -> str:
        return " ".join(self.draw.choices(self._words, k=count))

    def text(self, count: int) -> str:
        """Sentences of twelve words."""
        return " ".join(f"{self.words(12).capitalize()}." for _ in range(count // 12))


def planted(item: Item, *, filler: Filler) -> Iterator[Planted]:
    """In the ways in which items get into text, words and their order unchanged."""
    question = "\n".join(item.question)
    answer = item.answer[0] if item.answer else ""
    options = "".join(f"\n{c}. {o}" for c, o in zip("ABCDEFGH", item.options, strict=False))
    turned = "".join(f"\n({c}) {o}" for c, o in zip("abcdefgh", item.options[::-1], strict=False))
    whole = f"{question}{options}\nAnswer: {answer}"
    before, after = filler.text(120), filler.text(120)
    yield Planted(way="alone", text=whole)
    yield Planted(way="within", text=f"{before}\n{whole}\n{after}")
    yield Planted(way="options turned", text=f"{before}\n{question}{turned}\n{answer}\n{after}")
    yield Planted(way="capitals", text=f"{before} {whole.upper()} {after}")
    marks = " -- ".join(question.split()).replace("?", " ...")
    yield Planted(way="punctuation", text=f'{before} "{marks}" ({answer}!) {after}')
    lines = "\n  > ".join(whole.split())
    yield Planted(way="a word a line", text=f"{before}\n  > {lines}\n{after}")
    deep = f"{filler.text(12_000)}\n{whole}\n{filler.text(6_000)}"
    yield Planted(way="deep in 150 kB", text=deep)


def changed(item: Item, *, filler: Filler) -> Iterator[Planted]:
    words = " ".join(item.question).split()
    for way, every in zip(CHANGED, (20, 10, 5, 3), strict=False):
        other = [filler.words(1) if n % every == every // 2 else w for n, w in enumerate(words)]
        yield Planted(way=way, text=f"{filler.text(60)} {' '.join(other)} {filler.text(60)}")
    parts = [words[n : n + 6] for n in range(0, len(words), 6)]
    filler.draw.shuffle(parts)
    moved = " ".join(word for part in parts for word in part)
    yield Planted(way=CHANGED[-1], text=f"{filler.text(60)} {moved} {filler.text(60)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--suite", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--texts", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--items", type=int, default=1000, help="most planted, of a suite")
    arguments = parser.parse_args()
    suites = []
    for word in arguments.suite:
        name, _, path = word.partition("=")
        suites.append(read_suite(name, settings=SuiteConfig(path=path)))
    search = Search(suites, settings=DecontaminateConfig())
    for number, suite in enumerate(suites):
        print(f"{suite.name}: {search.counts[suite.name]}")
        _show_planted(suite, number=number, search=search, limit=arguments.items)
    for pattern in arguments.texts:
        _show_texts(pattern, search=search, suites=suites)


def _show_planted(suite: Suite, *, number: int, search: Search, limit: int) -> None:
    """Of an item that others repeat, the first stands for all."""
    filler = Filler(number)
    first = {words: n for n, words in reversed(list(enumerate(suite.words)))}
    chosen = [n for n in first.values() if any(w.length >= 5 for w in suite.words[n])]
    chosen = sorted(filler.draw.sample(chosen, k=min(limit, len(chosen))))
    counts: dict[str, list[int]] = {}
    for item in chosen:
        plants = [p for make in (planted, changed) for p in make(suite.items[item], filler=filler)]
        found = search([plant.text for plant in plants])
        for place, plant in enumerate(plants):
            named = {(f.suite, f.item, f.part) for f in found.get(place, [])}
            count = counts.setdefault(plant.way, [0, 0])
            count[0] += 1
            count[1] += (number, item, Part.question) in named
    for way, (total, hits) in counts.items():
        if way == CHANGED[0]:
            print("  " + "-" * 46)
        print(f"  {way:<20}{total:>8,} planted{hits:>8,} found  {hits / total:7.2%}")


def _show_texts(pattern: str, *, search: Search, suites: Sequence[Suite]) -> None:
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    texts = [path.read_text("utf-8", "replace") for path in paths if path.is_file()]
    started_s = time.process_time()
    found = {}
    for start in range(0, len(texts), BATCH):
        for number, parts in search(texts[start : start + BATCH]).items():
            found[start + number] = parts
    busy_s = time.process_time() - started_s
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    print(
        f"{pattern}: {len(texts):,} documents, {size / 1e6:.1f} MB, "
        f"{size / 1e6 / max(busy_s, 1e-9):.0f} MB/s of one core; {len(found):,} found"
    )
    for number, parts in found.items():
        start, stop = parts[0].spans[0]
        part = f"{suites[parts[0].suite].name} {parts[0].item} {parts[0].part.name}"
        print(f"  {part}: {texts[number][start:stop][:120]!r}")


if __name__ == "__main__":
    main()
