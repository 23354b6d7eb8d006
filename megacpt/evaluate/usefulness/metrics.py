# SPDX-License-Identifier: Apache-2.0
"""Answers against references: scores from 0 to 1 by libraries that know all scripts.

The package ai-evaluation has a ROUGE that is 0 for scripts other than Latin, and a BLEU that is
0.56 for three equal words; neither is used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from megacpt.config.sections import UsefulnessMetric
from megacpt.errors import EnvironmentError_

Metric = Callable[[str, str], float]
"""Of an answer and a reference."""
REMEDY = "is not installed: pip install 'megacpt[usefulness]'."
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese, Chinese
    r"\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def metric_of(name: UsefulnessMetric) -> Metric:
    """EnvironmentError_ names the package that is missing."""
    makers: dict[UsefulnessMetric, Callable[[], Metric]] = {
        UsefulnessMetric.exact_match: lambda: exact_match,
        UsefulnessMetric.contains: lambda: contains,
        UsefulnessMetric.chrf: _chrf,
        UsefulnessMetric.bleu: _bleu,
        UsefulnessMetric.rouge_l: _rouge_l,
    }
    return makers[name]()


def exact_match(answer: str, reference: str) -> float:
    return float(_plain(answer) == _plain(reference))


def contains(answer: str, reference: str) -> float:
    """As whole words: ``12`` is not in ``123``."""
    wanted = re.escape(_plain(reference))
    edges = rf"(?<![^\W{_UNSPACED}]){wanted}(?![^\W{_UNSPACED}])"
    return float(re.search(edges, _plain(answer)) is not None)


def words(text: str) -> list[str]:
    """In lower case; characters where a script has no spaces."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(".\u3002 ")


def _chrf() -> Metric:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise EnvironmentError_(f"sacrebleu, which metric=chrf uses, {REMEDY}") from error
    chrf = CHRF()
    return lambda answer, reference: chrf.sentence_score(answer, [reference]).score / 100


def _bleu() -> Metric:
    """Orders of n-grams that a short text does not have are left out."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise EnvironmentError_(f"sacrebleu, which metric=bleu uses, {REMEDY}") from error
    bleu = BLEU(effective_order=True, tokenize="none")

    def score(answer: str, reference: str) -> float:
        texts = (" ".join(words(text)) for text in (answer, reference))
        said, wanted = texts
        return min(float(bleu.sentence_score(said, [wanted]).score) / 100, 1.0)

    return score


def _rouge_l() -> Metric:
    try:
        from rouge_score import scoring
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import Tokenizer
    except ImportError as error:
        raise EnvironmentError_(f"rouge-score, which metric=rouge_l uses, {REMEDY}") from error

    class Words(Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return words(text)

    scorer = RougeScorer(["rougeL"], tokenizer=Words())

    def score(answer: str, reference: str) -> float:
        found: scoring.Score = scorer.score(reference, answer)["rougeL"]
        return float(found.fmeasure)

    return score
