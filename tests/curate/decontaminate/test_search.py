# SPDX-License-Identifier: Apache-2.0
"""Planted items are found, whatever was done to them; what is not there is not."""

from __future__ import annotations

import random

import pytest

from megacpt.curate.decontaminate.items import ItemSuite, SuiteItem
from megacpt.curate.decontaminate.search import Found, Search
from megacpt.curate.decontaminate.settings import DecontaminateConfig
from tests.curate.decontaminate.cases import Maker
from tests.curate.decontaminate.twin import Key, Twin
from tools.bench.decontamination import changed, planted


def search(*suites: list[SuiteItem], **settings: object) -> Search:
    named = [
        ItemSuite(name=f"s{number}", source="", items=tuple(items))
        for number, items in enumerate(suites)
    ]
    return Search(named, settings=DecontaminateConfig(**settings))  # type: ignore[arg-type]


def parts(found: list[Found]) -> dict[Key, float]:
    return {(f.suite, f.item, f.part.name): f.share for f in found}


MAKER = Maker(1)
ITEMS = [MAKER.item(count) for count in (40, 20, 13, 12, 10, 8, 7, 6, 5) for _ in range(3)]
PLANTED = [(number, p) for number, item in enumerate(ITEMS) for p in planted(item, filler=MAKER)]
FINDS = search(ITEMS)


@pytest.mark.parametrize("way", sorted({p.way for _, p in PLANTED}))
def test_every_planted_item_is_found(way: str) -> None:
    mine = [(number, p.text) for number, p in PLANTED if p.way == way]
    found = FINDS([text for _, text in mine])
    for place, (number, text) in enumerate(mine):
        assert parts(found[place]) == {(0, number, "question"): 1.0}
        ((start, stop),) = found[place][0].spans
        first, *_, last = ITEMS[number].question[0].rstrip("?").split()
        spanned = text[start:stop].lower()
        assert spanned.startswith(first.lower())
        assert spanned.endswith(last)


def test_other_text_holds_nothing() -> None:
    texts = [Maker(seed).text(400) for seed in range(2, 40)]
    assert FINDS(texts) == {}


def test_what_is_not_found() -> None:
    """Where every fifth word is another, no window of eight is left; the page says so."""
    ways = {p.way: [] for p in changed(ITEMS[0], filler=MAKER)}
    for item in ITEMS:
        for plant in changed(item, filler=MAKER):
            ways[plant.way].append(plant.text)
    found = {way: len(FINDS(texts)) for way, texts in ways.items()}
    assert found["a word in three"] == found["a word in five"] == 0
    assert 0 < found["a word in twenty"] < len(ITEMS)


def test_rows_of_few_words_are_no_evidence() -> None:
    sums = SuiteItem(question=(f"How much is the sum of {'1 + ' * 30}",), answer=("2 " * 40,))
    finds = search([sums])
    assert finds(["2, " * 50, "1 + " * 30]) == {}
    assert parts(finds([sums.question[0]])[0]).keys() == {(0, 0, "question")}


def test_text_without_blanks() -> None:
    """Each character is a word; letters and digits may be as wide as they are."""
    item = SuiteItem(
        question=("水的化学式是H2O、那么一升水在摄氏四度时有多重。",), answer=("一千克",)
    )
    finds = search([item])
    inside = "有一题。「水的化学式是\uff28\uff12\uff2f 那么一升水\n在摄氏四度时有多重」、大家都会。"
    other = "水的颜色是什么。那么一升油在摄氏四度时有多重、没有人知道。"
    assert parts(finds([other, inside])[1]) == {(0, 0, "question"): 1.0}
    assert finds([other]).keys() == set()


def test_a_short_question_needs_its_answer() -> None:
    item = ITEMS[-1]
    question, answer = item.question[0], item.answer[0]
    far = MAKER.text(200)
    assert FINDS([f"{question} {answer}", question, f"{question} {far} {answer}"]).keys() == {0}
    assert search([SuiteItem(question=item.question)])([question]).keys() == {0}


def test_the_words_of_prompts_are_no_evidence() -> None:
    prompt = MAKER.words(16)
    items = [SuiteItem(question=(f"{prompt} {MAKER.words(20)}",)) for _ in range(40)]
    own = items[7].question[0]
    found = search(items)([prompt, f"{prompt} {MAKER.words(9)}", own])
    assert {place: parts(f) for place, f in found.items()} == {2: {(0, 7, "question"): 1.0}}
    # Without the weights every one of them would be there.
    assert len(search(items, common_items=1000)([f"{prompt} {MAKER.words(9)}"]).get(0, [])) == 0
    assert len(Twin([[item] for item in items])(prompt)) == 40


def test_long_answers_and_options_are_found_apart() -> None:
    options = tuple(MAKER.words(9) for _ in range(3))
    item = SuiteItem(question=(MAKER.words(3),), answer=options[:1], options=options)
    finds = search([item])
    assert parts(finds([f"{MAKER.text(60)} {options[0]}"])[0]) == {(0, 0, "answer"): 1.0}
    assert parts(finds([options[2].upper()])[0]) == {(0, 0, "option"): 1.0}
    assert finds([item.question[0]]) == {}
    # Of two options, both are told: what is cut must be all of it.
    (both,) = finds([f"{options[1]} or {options[2]}"])[0]
    end = len(options[1])
    assert both.spans == ((0, end), (end + 4, end + 4 + len(options[2])))
    assert (finds.counts["s0"].too_short, finds.counts["s0"].searched) == (1, 1)


def test_the_same_as_the_twin_says() -> None:
    """Pieces of items, with gaps and repetitions, between words of other items."""
    draw = random.Random(3)
    shared = MAKER.words(10)
    suites = [
        [SuiteItem(question=(f"{shared} {MAKER.words(n % 17)}",)) for n in range(30)]
        + [MAKER.item(draw.randrange(3, 40)) for _ in range(30)],
        [
            SuiteItem(question=(MAKER.words(n),), options=(MAKER.words(n), shared))
            for n in range(4, 16)
        ],
    ]
    suites[1] += suites[1][:3]  # The same item twice counts once.
    everything = [text for suite in suites for item in suite for _, text in item.parts()]
    texts = []
    for _ in range(150):
        cut = [draw.choice(everything).split() for _ in range(draw.randrange(1, 6))]
        spans = [(draw.randrange(3), len(words) - draw.randrange(3)) for words in cut]
        texts.append("; ".join(" ".join(w[a:b]) for w, (a, b) in zip(cut, spans, strict=True)))
    found = search(*suites)(texts)
    expected = list(map(Twin(suites), texts))
    assert sum(map(len, expected)) > 100
    answered = 0
    for number, text in enumerate(texts):
        mine = parts(found.get(number, []))
        for key, share in expected[number].items():
            if key not in mine:  # Only the answer may be missing.
                item = suites[key[0]][key[1]]
                assert item.answer, (key, text)
                assert len(item.question[0].split()) < 8, (key, text)
                answered += 1
            else:
                assert mine.pop(key) == pytest.approx(share, abs=1e-4)
        assert not mine
    assert answered < 20


def test_spans_that_overlap_are_one() -> None:
    question = MAKER.words(30)
    words = question.split()
    text = f"{question} -- {' '.join(words[:14])} | {MAKER.words(5)}"
    (found,) = search([SuiteItem(question=(question,))])([text])[0]
    end = len(f"{question} -- {' '.join(words[:14])}")
    assert found.spans in (((0, len(question)), (len(question) + 4, end)), ((0, end),))
