# SPDX-License-Identifier: Apache-2.0
"""datatrove's filters with limits that remember: its own verdicts, and the numbers behind them."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("spacy")

import spacy
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import PUNCTUATION_SET

from megacpt.curate.filters.by_datatrove import DatatroveRule, require_words
from megacpt.curate.filters.settings import (
    C4Config,
    FineWebConfig,
    GopherConfig,
    RepetitionConfig,
)
from megacpt.errors import ConfigError
from tests.curate.filters.cases import MADE, TEXTS, WITHOUT_WORDS

OFF: dict[str, Any] = dict.fromkeys(GopherConfig.__dataclass_fields__) | {"stop_words": "the"}


def theirs(made: Any, *, text: str) -> tuple[str, str]:
    """datatrove's verdict, and what it leaves of the text."""
    document = Document(text=text, id="")
    found = made.filter(document)
    return ("", document.text) if found is True else (found[1], text)


PAIRS = [
    (RepetitionConfig(), lambda: GopherRepetitionFilter()),
    (GopherConfig(), lambda: GopherQualityFilter()),
    (
        GopherConfig(min_doc_words=5, min_stop_words=4),
        lambda: GopherQualityFilter(5, min_stop_words=4),
    ),
    (
        GopherConfig(**OFF | {"max_avg_word_length": 5.0}),
        lambda: GopherQualityFilter(*[None] * 3, 5.0, *[None] * 5),
    ),
    (C4Config(), lambda: C4QualityFilter()),
    (
        C4Config(filter_no_terminal_punct=False, min_num_sentences=2, filter_curly_bracket=False),
        lambda: C4QualityFilter(
            filter_no_terminal_punct=False, min_num_sentences=2, filter_curly_bracket=False
        ),
    ),
    (C4Config(split_paragraph=False), lambda: C4QualityFilter(split_paragraph=False)),
    (FineWebConfig(), lambda: FineWebQualityFilter(stop_chars=tuple(".'\"!?"))),
    (
        FineWebConfig(short_line_length=8, line_punct_exclude_zero=True, stop_chars=".!?"),
        lambda: FineWebQualityFilter(short_line_length=8, line_punct_exclude_zero=True),
    ),
]


@pytest.mark.parametrize(("section", "make"), PAIRS)
def test_verdicts_and_texts_are_datatrove_s(section: Any, make: Any) -> None:
    rule, made = DatatroveRule(section, language="eng"), make()
    reasons = Counter()
    for name, text in TEXTS.items():
        found = rule(text)
        has_words = name not in WITHOUT_WORDS
        expected = theirs(made, text=text) if has_words else ("no_words", text)
        assert (found.dropped, found.text) == expected, name
        reasons[found.dropped] += 1
    assert 0 < reasons[""] < len(TEXTS)


def test_every_rule_is_broken_by_some_text() -> None:
    rules = [DatatroveRule(section, language="eng") for section, _ in PAIRS]
    found = {rule(text).dropped for rule in rules for text in MADE.values()}
    assert found >= {
        *("gopher_short_doc", "gopher_above_avg_threshold", "gopher_below_avg_threshold"),
        *("gopher_too_many_hashes", "gopher_too_many_ellipsis", "gopher_too_many_bullets"),
        *("gopher_too_many_end_ellipsis", "gopher_below_alpha_threshold"),
        *("gopher_enough_stop_words", "dup_para_frac", "dup_line_frac", "top_2_gram"),
        *("lorem_ipsum", "curly_bracket", "too_few_sentences"),
        *("line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio"),
    }


def measured(section: Any, *, text: str) -> dict[str, float]:
    rule = DatatroveRule(section, language="eng", is_measuring=True)
    assert rule(text).dropped == ""
    return {name: limit.seen for name, limit in rule.limits.items() if limit.seen is not None}


@pytest.fixture(scope="module")
def cut() -> Any:
    nlp = spacy.blank("en")
    return lambda text: [token.text.strip() for token in nlp(text) if token.text.strip()]


@pytest.mark.parametrize("name", ["prose", "bullets", "ends", "numbers", "topic assert"])
def test_what_gopher_measures(name: str, cut: Any) -> None:
    text = TEXTS[name]
    all_words = cut(text)
    proper = [word for word in all_words if not set(word) <= PUNCTUATION_SET]
    lines = text.splitlines()
    assert measured(GopherConfig(), text=text) == pytest.approx(
        {
            "min_doc_words": len(proper),
            "max_doc_words": len(proper),
            "min_avg_word_length": sum(map(len, proper)) / len(proper),
            "max_avg_word_length": sum(map(len, proper)) / len(proper),
            # Two rules have this limit.
            "max_symbol_word_ratio": max(len(re.findall(s, text)) for s in (r"\.\.\.|…", "#"))
            / len(all_words),
            "max_bullet_lines_ratio": sum(bool(re.match(r"\s*[•-]", ln)) for ln in lines)
            / len(lines),
            "max_ellipsis_lines_ratio": sum(bool(re.search(r"(\.\.\.|…)\s*$", ln)) for ln in lines)
            / len(lines),
            "max_non_alpha_words_ratio": sum(bool(re.search(r"[^\W\d_]", w)) for w in all_words)
            / len(all_words),
            "min_stop_words": len(
                {"the", "be", "to", "of", "and", "that", "have", "with"} & set(all_words)
            ),
        }
    )


@pytest.mark.parametrize("name", ["prose", "lines", "paragraphs", "two_words", "five_words"])
def test_what_gopher_measures_of_repetitions(name: str, cut: Any) -> None:
    text = TEXTS[name]
    found = measured(RepetitionConfig(), text=text)
    lines, all_words = text.split("\n"), cut(text)
    lines = [line for line in lines if line]
    assert found["dup_line_frac"] == pytest.approx(1 - len(set(lines)) / len(lines))
    again = [line for n, line in enumerate(lines) if line in lines[:n]]
    assert found["dup_line_char_frac"] == pytest.approx(sum(map(len, again)) / len(text))
    pairs = Counter(pairwise(all_words))
    (first, second), times = pairs.most_common(1)[0]
    assert found["top_2_gram"] == pytest.approx(len(f"{first} {second}") * times / len(text))


def test_what_fineweb_measures(cut: Any) -> None:
    text = TEXTS["scripts"] + "\n" + TEXTS["prose"]
    lines = text.split("\n")
    again = [line for n, line in enumerate(lines) if line in lines[:n]]
    assert measured(FineWebConfig(), text=text) == pytest.approx(
        {
            "line_punct_thr": sum(line.endswith(tuple(".!?\"'")) for line in lines) / len(lines),
            "short_line_thr": sum(len(line) <= 30 for line in lines) / len(lines),
            "char_duplicates_ratio": sum(map(len, again)) / (len(text) - len(lines) + 1),
            "new_line_ratio": (len(lines) - 1) / len(cut(text)),
        }
    )


def test_a_dropped_text_is_told_with_its_value_and_limit() -> None:
    found = DatatroveRule(GopherConfig(), language="eng")(TEXTS["short"])
    assert found.dropped == "gopher_short_doc"
    assert found.detail == {"setting": "min_doc_words", "value": 6.0, "limit": 50.0}


def test_a_limit_of_0_is_one() -> None:
    # datatrove asks `if limit and ...`, which takes 0 for none.
    text = TEXTS["prose"] + " #1"
    strict = GopherConfig(max_symbol_word_ratio=0.0)
    assert DatatroveRule(strict, language="eng")(text).dropped == "gopher_too_many_hashes"
    assert theirs(GopherQualityFilter(max_symbol_word_ratio=0.0), text=text)[0] == ""


def test_lines_that_c4_takes_out_are_counted_by_reason() -> None:
    found = DatatroveRule(C4Config(), language="eng")(TEXTS["scripts"])
    assert found.changes == ("c4_lines",)
    assert found.detail == {"no_terminal_punc": 2, "javascript": 1}


def test_a_language_that_cannot_be_cut_into_words() -> None:
    with pytest.raises(ConfigError, match=r"filter.words=xyz cannot be used.*use eng"):
        require_words("xyz")
