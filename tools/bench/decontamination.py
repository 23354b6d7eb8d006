# SPDX-License-Identifier: Apache-2.0
"""What `megacpt decontaminate` finds of items that were planted in text, and in text without any.

    python tools/bench/decontamination.py --suite gsm8k=test.jsonl --suite bbh=BIG-Bench-Hard/bbh \\
        --texts '/usr/lib/python3*/**/*.py' --texts '/usr/share/doc/**/copyright'

Each item is planted in every way in text of its own; found is one whose question is named. The ways
below the line change words, and are not all found. Then all ``--texts``, a file a document, are
searched as they are: what is found there is found wrongly, if they hold none of the suites.
``--datatrove PYTHON`` has datatrove do the same by its side, of the texts as many as make 2 MB
(decontamination_datatrove.py says what that Python needs).
"""

from __future__ import annotations

import argparse
import glob
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from megacpt.curate.decontaminate.items import ItemPart, ItemSuite, SuiteItem
from megacpt.curate.decontaminate.search import Search
from megacpt.curate.decontaminate.settings import DecontaminateConfig, SuiteConfig
from megacpt.curate.decontaminate.suites import read_suite

BATCH = 200
PEER_CHARS = 2_000_000
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


def planted(item: SuiteItem, *, filler: Filler) -> Iterator[Planted]:
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


def changed(item: SuiteItem, *, filler: Filler) -> Iterator[Planted]:
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
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    peer = Peer(arguments.datatrove) if arguments.datatrove else None
    suites = []
    for word in arguments.suite:
        name, _, path = word.partition("=")
        suites.append(read_suite(name, settings=SuiteConfig(path=path)))
    search = Search(suites, settings=DecontaminateConfig())
    for number, suite in enumerate(suites):
        print(f"{suite.name}: {search.counts[suite.name]}")
        _show_planted(suite, number=number, search=search, limit=arguments.items, peer=peer)
    for pattern in arguments.texts:
        _show_texts(pattern, search=search, suites=suites, peer=peer)


class Peer:
    """datatrove, in a process of its own."""

    def __init__(self, python: Path) -> None:
        self._python = python

    def find(
        self, texts: Sequence[str], *, items: Iterable[SuiteItem]
    ) -> tuple[dict[int, str], float]:
        """By number of text a window that was found; and seconds of one core."""
        pairs = [("\n".join(item.question), " ".join(item.answer[:1])) for item in items]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"items": pairs, "texts": list(texts)}, file)
            file.flush()
            script = Path(__file__).with_name("decontamination_datatrove.py")
            words = [str(self._python), str(script), file.name]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        return {int(number): window for number, window in told["found"].items()}, told["busy_s"]


@dataclass(slots=True, kw_only=True)
class Tried:
    """Of a way."""

    planted: int = 0
    found: int = 0
    by_peer: int = 0


def _show_planted(
    suite: ItemSuite, *, number: int, search: Search, limit: int, peer: Peer | None
) -> None:
    """Of an item that others repeat, the first stands for all."""
    filler = Filler(number)
    first = {words: n for n, words in reversed(list(enumerate(suite.words)))}
    chosen = [n for n in first.values() if any(w.length >= 5 for w in suite.words[n])]
    chosen = sorted(filler.draw.sample(chosen, k=min(limit, len(chosen))))
    plants = [
        (item, plant)
        for item in chosen
        for make in (planted, changed)
        for plant in make(suite.items[item], filler=filler)
        if peer is None or not plant.way.startswith("deep")  # Which would take it hours.
    ]
    texts = [plant.text for _, plant in plants]
    found = search(texts)
    by_peer = peer.find(texts, items=suite.items)[0] if peer else {}
    tried: dict[str, Tried] = {}
    for place, (item, plant) in enumerate(plants):
        of_way = tried.setdefault(plant.way, Tried())
        named = {(f.suite, f.item, f.part) for f in found.get(place, [])}
        of_way.planted += 1
        of_way.found += (number, item, ItemPart.question) in named
        of_way.by_peer += place in by_peer
    for way, count in tried.items():
        if way == CHANGED[0]:
            print("  " + "-" * 46)
        beside = f"  datatrove {count.by_peer:,}" if peer else ""
        print(f"  {way:<20}{count.planted:>8,} planted{count.found:>8,} found{beside}")


def _show_texts(
    pattern: str, *, search: Search, suites: Sequence[ItemSuite], peer: Peer | None
) -> None:
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    texts = [path.read_text("utf-8", "replace") for path in paths if path.is_file()]
    started_s = time.process_time()
    found = {}
    for start in range(0, len(texts), BATCH):
        for number, parts in search(texts[start : start + BATCH]).items():
            found[start + number] = parts
    busy_s = time.process_time() - started_s
    print(f"{pattern}: {_speed(texts, busy_s=busy_s)}; {len(found):,} found")
    for number, parts in found.items():
        start, stop = parts[0].spans[0]
        part = f"{suites[parts[0].suite].name} {parts[0].item} {parts[0].part.name}"
        print(f"  {part}: {texts[number][start:stop][:120]!r}")
    if peer is not None:
        sizes = accumulate(len(text) for text in texts)
        some = [text for text, size in zip(texts, sizes, strict=True) if size < PEER_CHARS]
        windows, busy_s = peer.find(some, items=(item for s in suites for item in s.items))
        print(f"  datatrove: {_speed(some, busy_s=busy_s)}; {len(windows):,} found")
        for window in windows.values():
            print(f"    {window!r}")


def _speed(texts: Sequence[str], *, busy_s: float) -> str:
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return (
        f"{len(texts):,} documents, {size / 1e6:.1f} MB, "
        f"{size / 1e6 / max(busy_s, 1e-9):.4g} MB/s of one core"
    )


if __name__ == "__main__":
    main()
