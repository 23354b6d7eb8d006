# SPDX-License-Identifier: Apache-2.0
"""Documents of about 1.8 kB: passages of licences, and copies of them with known edits.

The licences and licence notices are those of the package licensedcode-data, which has many that are
nearly the same of their own accord. They are of ASCII, where all tools agree on what a word is. All
is drawn from one seed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

FILES = 2
"""Peers that have no threads read a file a process."""
COPIES = 0.5
"""Share of documents that are copies."""
PASSAGE_CHARS = (500, 2700)
RATES = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)
"""Of words that a copy has changed, left out or put in."""
SEED = 17


def write_corpus(folder: Path, *, texts: Path, documents: int) -> list[Path]:
    """FOLDER/N.jsonl; ``texts`` is licensedcode/data of the package."""
    paths = [folder / f"{number}.jsonl" for number in range(FILES)]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    passages = list(_passages(texts))
    lines = [json.dumps(entry) for entry in _entries(passages, documents=documents)]
    for number, path in enumerate(paths):
        part = lines[number * documents // FILES : (number + 1) * documents // FILES]
        aside = path.with_suffix(".partial")
        aside.write_text("\n".join(part) + "\n", encoding="utf-8")
        aside.replace(path)
    return paths


def _entries(passages: list[str], *, documents: int) -> Iterator[dict[str, str]]:
    draw = random.Random(SEED)
    draw.shuffle(passages)
    num_originals = min(len(passages), round(documents * (1 - COPIES)))
    originals = passages[:num_originals]
    words = sorted({word for text in originals[:2000] for word in text.split() if word.isalpha()})
    made = [(text, "original") for text in originals]
    while len(made) < documents:
        made.append(edited(draw.choice(originals), words=words, draw=draw))
    draw.shuffle(made)
    for number, (text, edit) in enumerate(made):
        yield {"id": f"{number:06}", "text": text, "edit": edit}


def _passages(texts: Path) -> Iterator[str]:
    """Each ends where a line does."""
    least, most = PASSAGE_CHARS
    for path in sorted([*texts.glob("licenses/*.LICENSE"), *texts.glob("rules/*.RULE")]):
        content = path.read_text(encoding="utf-8").removeprefix("---\n")
        text = content.partition("\n---\n")[2].strip()
        start = 0
        while len(text) - start >= least:
            end = text.rfind("\n", start + least, start + most) if len(text) - start > most else -1
            stop = end if end > 0 else min(start + most, len(text))
            if (passage := text[start:stop].strip()).isascii():
                yield passage
            start = stop


def edited(text: str, *, words: list[str], draw: random.Random) -> tuple[str, str]:
    """A copy, and what was done to it."""
    kind = draw.choice(("words", "words", "words", "words", "case", "marks", "cut", "frame"))
    if kind == "case":
        return text.upper(), kind
    if kind == "marks":
        return re.sub(r"[,.;]", lambda _: draw.choice((",", ";", " -", "")), text), kind
    if kind == "cut":
        return text[: int(len(text) * draw.uniform(0.7, 0.99))], kind
    if kind == "frame":
        around = [" ".join(draw.choices(words, k=draw.randint(5, 25))) for _ in range(2)]
        return f"{around[0]}\n{text}\n{around[1]}", kind
    rate = draw.choice(RATES)
    return _with_other_words(text, rate=rate, words=words, draw=draw), f"words {rate}"


def _with_other_words(text: str, *, rate: float, words: list[str], draw: random.Random) -> str:
    """Spaces and line breaks stay."""
    parts = re.split(r"(\s+)", text)
    for number in range(0, len(parts), 2):
        if draw.random() < rate:
            other = draw.choice(words)
            parts[number] = draw.choice((other, "", f"{parts[number]} {other}"))
    return "".join(parts)
