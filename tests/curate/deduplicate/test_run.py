# SPDX-License-Identifier: Apache-2.0
"""Who stays of documents that are, or nearly are, others: what comparing all with all says."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megacpt.corpus.curation import Curation
from megacpt.curate import pipeline
from megacpt.curate.config import read_config
from megacpt.curate.deduplicate import buckets
from tests.curate import twins

WORDS = [f"{a}{b}" for a in ("ba", "co", "di", "fu", "ge", "hy") for b in "lmnprstvxz"]
THRESHOLD = 0.8
SURELY = "deduplicate.near.recall=0.9999"


def texts(num: int, *, seed: int) -> list[str]:
    """Families of a document and copies of it: the same words, one changed (0.9 and more of the
    shingles stay), many changed (less than 0.6)."""
    drawn = random.Random(seed)
    found = []
    while len(found) < num:
        words = [drawn.choice(WORDS) for _ in range(drawn.randint(110, 200))]
        found.append(" ".join(words))
        for _ in range(drawn.choice([0, 0, 1, 3])):
            copy = list(words)
            for _ in range(drawn.choice([0, 1, 40])):
                copy[drawn.randrange(len(copy))] = drawn.choice(WORDS)
            text = " ".join(copy)
            found.append(drawn.choice([text, text.upper(), text.replace(" ", ",  ") + "!"]))
    drawn.shuffle(found)
    return found[:num]


def write(path: Path, documents: Sequence[str | Mapping[str, Any]]) -> Path:
    lines = (d if isinstance(d, dict) else {"text": d} for d in documents)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def curate(folder: Path, *more: str, output: str = "out", **files: str) -> Curation:
    sources = [f"sources.{name}.files={files_of}" for name, files_of in files.items()]
    words = [f"output={folder / output}", "form=jsonl", *sources, "workers=1", *more]
    return pipeline.curate(read_config(None, overrides=words))


def left(folder: Path, *, output: str = "out", source: str = "law") -> list[str]:
    parts = sorted((folder / output / source).iterdir())
    return [json.loads(line)["text"] for part in parts for line in part.read_text().splitlines()]


def stays(documents: Sequence[str], *, threshold: float = THRESHOLD) -> list[str]:
    """All compared with all: each goes for one that stays, has as many letters or more, and is like
    it."""
    shingles = {text: set(twins.rows(text, length=5)) for text in documents}
    kept: list[str] = []
    for text in sorted(set(documents), key=len, reverse=True):
        if all(alike(shingles[text], shingles[other]) < threshold for other in kept):
            kept.append(text)
    return kept


def alike(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def test_as_comparing_all_with_all(tmp_path: Path) -> None:
    documents = texts(300, seed=1)
    write(tmp_path / "law.jsonl", documents)
    found = curate(tmp_path, SURELY, law=f"{tmp_path}/law.jsonl")
    assert sorted(map(len, left(tmp_path))) == sorted(map(len, stays(documents)))
    counts = found.steps[0].counts["law"]
    assert counts["documents_out"] == len(left(tmp_path))
    assert counts["rules"]["exact"]["dropped"] > 10
    assert counts["rules"]["near"]["dropped"] > 10
    shown = found.steps[0].findings["side_by_side"]
    assert len(shown) == 10
    for pair in shown:
        assert pair["similarity"] >= THRESHOLD
        assert pair["stays"]["id"] != pair["goes"]["id"]


def test_neither_order_nor_workers_nor_memory_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = texts(200, seed=2)
    write(tmp_path / "a.jsonl", documents[:90])
    write(tmp_path / "b.jsonl", documents[90:])
    a, b = (f"{tmp_path}/{name}.jsonl" for name in "ab")
    curate(tmp_path, SURELY, law=f"{a},{b}")
    monkeypatch.setattr(buckets, "ENTRY_COPIES", 1 << 20)
    curate(
        tmp_path,
        *(SURELY, "workers=3", "deduplicate.memory_mib=16"),
        output="other",
        law=f"{b},{a}",
    )
    assert sorted(left(tmp_path)) == sorted(left(tmp_path, output="other"))


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "law.jsonl", texts(200, seed=3))
    curate(tmp_path, "deduplicate.exact=true", law=f"{tmp_path}/law.jsonl")
    again = curate(tmp_path, "deduplicate.exact=true", output="again", law=f"{tmp_path}/out/law")
    assert left(tmp_path) == left(tmp_path, output="again")
    assert not again.steps[0].counts["law"]["rules"]


def test_heldout_text_stays_and_what_is_like_it_goes(tmp_path: Path) -> None:
    rng = random.Random(4)
    held = [" ".join(rng.choice(WORDS) for _ in range(100)) for _ in range(3)]
    longer = f"{held[0]} {held[0].split()[3]} and"
    other = " ".join(rng.choice(WORDS) for _ in range(100))
    write(tmp_path / "law.jsonl", [longer, held[1].upper(), other])
    write(tmp_path / "late.jsonl", [*held, held[2]])
    found = curate(
        tmp_path,
        *("sources.late.kind=heldout", "deduplicate.near.threshold=0.8"),
        law=f"{tmp_path}/law.jsonl",
        late=f"{tmp_path}/late.jsonl",
    )
    assert left(tmp_path) == [other]
    assert left(tmp_path, source="late") == [*held, held[2]]
    rules = found.steps[0].counts["law"]["rules"]
    assert {name: rule["dropped"] for name, rule in rules.items()} == {
        "exact_of_heldout": 1,
        "near_of_heldout": 1,
    }


def chain(num: int) -> list[str]:
    """Each is like the next, and not like the one after that; the first is the longest."""
    rng = random.Random(5)
    words = [rng.choice(WORDS) for _ in range(400)]
    return [" ".join(words[n * 30 : 300 + n * 28]) for n in range(num)]


@pytest.mark.parametrize(("chains", "stay"), [("false", [0, 2]), ("true", [0])])
def test_a_chain_goes_as_a_whole_only_where_asked(
    tmp_path: Path, chains: str, stay: list[int]
) -> None:
    links = chain(3)
    sets = [set(twins.rows(link, length=5)) for link in links]
    assert min(alike(sets[0], sets[1]), alike(sets[1], sets[2])) > 0.75
    assert alike(sets[0], sets[2]) < 0.7
    write(tmp_path / "law.jsonl", links)
    curate(
        tmp_path,
        *("deduplicate.near.threshold=0.7", SURELY),
        f"deduplicate.near.chains={chains}",
        law=f"{tmp_path}/law.jsonl",
    )
    assert left(tmp_path) == [links[n] for n in stay]


def test_one_that_went_for_one_that_goes_comes_back(tmp_path: Path) -> None:
    """Five links: the first, third and fifth stay, in whatever order buckets are looked at."""
    links = chain(5)
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        shuffled = random.Random(seed).sample(links, k=5)
        write(folder / "law.jsonl", shuffled)
        curate(
            folder,
            *("deduplicate.near.threshold=0.7", SURELY),
            law=f"{folder}/law.jsonl",
        )
        assert set(left(folder)) == {links[0], links[2], links[4]}


@pytest.mark.parametrize(("keep", "expected"), [("longest", 2), ("first", 0), ("best", 1)], ids=str)
def test_which_of_several_stays(tmp_path: Path, keep: str, expected: int) -> None:
    rng = random.Random(6)
    text = " ".join(rng.choice(WORDS) for _ in range(120))
    documents = [
        {"text": text, "score": 0.5},
        {"text": f"{text}.", "score": 2},
        {"text": f"{text} and more", "score": None},
    ]
    write(tmp_path / "law.jsonl", documents)
    curate(tmp_path, f"deduplicate.keep={keep}", law=f"{tmp_path}/law.jsonl")
    assert left(tmp_path) == [documents[expected]["text"]]


def test_what_has_no_words_and_what_has_few(tmp_path: Path) -> None:
    """Fewer words than a shingle has: the same ones or none."""
    documents = ["", "---", "***", "---", "one two", "One, two!", "one two three", "one"]
    write(tmp_path / "law.jsonl", documents)
    curate(tmp_path, "deduplicate.exact=true", law=f"{tmp_path}/law.jsonl")
    found = left(tmp_path)
    assert sorted(found) == sorted(["", "---", "***", "One, two!", "one two three", "one"])


LICENCE = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this file"
)
FOOTER = "All rights reserved by the authors of this text, who would like to be asked before"


def test_repeated_lines_go_but_for_the_first(tmp_path: Path) -> None:
    rng = random.Random(7)
    bodies = [" ".join(rng.choice(WORDS) for _ in range(60)) for _ in range(4)]
    documents = [
        f"{LICENCE}\n{bodies[0]}\n{FOOTER}",
        f"{LICENCE.upper()}!\n{bodies[1]} {bodies[1]}\nshort\nshort",
        f"{bodies[2]}\n{FOOTER}\n{FOOTER}",
        f"{LICENCE}\n{FOOTER}\n{bodies[3][:40]}",
    ]
    write(tmp_path / "law.jsonl", documents)
    write(tmp_path / "late.jsonl", [f"{bodies[0]} held out"])
    found = curate(
        tmp_path,
        *("deduplicate.near=null", "deduplicate.lines.words=10", "sources.late.kind=heldout"),
        law=f"{tmp_path}/law.jsonl",
        late=f"{tmp_path}/late.jsonl",
    )
    # The second is the longest; of the footer the first document's two, and the third's, one stays.
    longest = max((documents[0], documents[2]), key=len)
    expected = [
        f"{bodies[0]}" + f"\n{FOOTER}" * (longest == documents[0]),
        documents[1],
        f"{bodies[2]}" + f"\n{FOOTER}" * (longest == documents[2]),
    ]
    assert left(tmp_path) == expected
    rule = found.steps[0].counts["law"]["rules"]["lines"]
    assert (rule["documents"], rule["dropped"]) == (3, 1)
    again = curate(
        tmp_path,
        *("deduplicate.near=null", "deduplicate.lines.words=10"),
        output="again",
        law=f"{tmp_path}/out/law",
    )
    assert not again.steps[0].counts["law"]["rules"]
