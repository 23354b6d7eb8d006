# SPDX-License-Identifier: Apache-2.0
"""Scores of answers in many scripts, beside the libraries and beside counts by hand."""

from __future__ import annotations

import pytest

from megacpt.config.sections import UsefulnessMetric
from megacpt.evaluate.usefulness.metrics import metric_of, words

SENTENCES = [
    "The boiling point is 100 degrees.",
    "Столица Франции — Париж.",
    "富士山は日本で一番高い山です。",
    "กรุงเทพมหานครเป็นเมืองหลวง",
    "العاصمة هي القاهرة",
    "one two three",
]


@pytest.mark.parametrize("metric", ["exact_match", "contains", "chrf", "bleu", "rouge_l"])
@pytest.mark.parametrize("text", SENTENCES)
def test_the_reference_itself_is_worth_1_in_every_script(metric: str, text: str) -> None:
    """Where ai-evaluation's ROUGE gives 0 beyond Latin, and its BLEU 0.56 for three words."""
    score = metric_of(UsefulnessMetric[metric])
    assert score(text, text) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("metric", ["exact_match", "contains", "chrf", "bleu", "rouge_l"])
def test_nothing_in_common_is_worth_0(metric: str) -> None:
    assert metric_of(UsefulnessMetric[metric])("xyz uvw", "北京市") == 0
    assert metric_of(UsefulnessMetric[metric])("", "one two three") == 0


def test_rouge_is_the_longest_common_subsequence() -> None:
    """ "a c" of three words said and four wanted: 2/3 and 2/4, whose harmonic mean is 4/7."""
    score = metric_of(UsefulnessMetric.rouge_l)
    assert score("a x c", "a b c d") == pytest.approx(4 / 7)
    assert score("甲 丙", "甲乙丙丁") == pytest.approx(2 * 1.0 * 0.5 / 1.5)


def test_chrf_is_sacrebleu_s() -> None:
    import sacrebleu

    wanted = sacrebleu.sentence_chrf("Der Hund bellt", ["Der Hund bellte"]).score / 100
    assert metric_of(UsefulnessMetric.chrf)("Der Hund bellt", "Der Hund bellte") == wanted


def test_bleu_is_sacrebleu_s_over_words_of_all_scripts() -> None:
    import sacrebleu

    wanted = sacrebleu.sentence_bleu(
        "the cat sat on a mat", ["the cat sat on the mat"], tokenize="none"
    )
    score = metric_of(UsefulnessMetric.bleu)("The cat sat on a mat.", "The cat sat on the mat!")
    assert score == pytest.approx(wanted.score / 100)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The answer is 12.", "12", 1),
        ("The answer is 123.", "12", 0),
        ("it is PARIS, of course", "Paris", 1),
        ("答えは富士山です", "富士山", 1),
        ("C++ it is", "C++", 1),
    ],
)
def test_contains_is_of_whole_words(answer: str, reference: str, score: float) -> None:
    assert metric_of(UsefulnessMetric.contains)(answer, reference) == score


def test_exact_match_leaves_case_spaces_and_the_full_stop() -> None:
    score = metric_of(UsefulnessMetric.exact_match)
    assert score("  Rome.\n", "rome") == 1
    assert score("Rome, Italy", "Rome") == 0


def test_words_are_characters_where_there_are_no_spaces() -> None:
    assert words("Tokyo 東京 é") == ["tokyo", "東", "京", "é"]
