# SPDX-License-Identifier: Apache-2.0
"""Documents of other languages, or of none that the model is sure of."""

from __future__ import annotations

import pytest

pytest.importorskip("py3langid")

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from megacpt.curate.filters.language import Language
from megacpt.curate.filters.settings import LanguageConfig
from megacpt.errors import ConfigError

ENGLISH = "The tenant has to leave the house by the end of the third month after the notice."
GERMAN = "Der Mieter muss das Haus bis zum Ende des dritten Monats nach der Kündigung räumen."
FRENCH = "Le locataire doit quitter la maison avant la fin du troisième mois après le préavis."
MIXED = "ok 17 x, tz ab"


@pytest.fixture(scope="module")
def model() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@pytest.mark.parametrize(
    ("keep", "kept"), [("en", {ENGLISH}), ("en, de", {ENGLISH, GERMAN}), ("fr", {FRENCH})]
)
def test_other_languages_are_left_out(keep: str, kept: set[str], model: LanguageIdentifier) -> None:
    rule = Language(LanguageConfig(keep=keep))
    for text in (ENGLISH, GERMAN, FRENCH):
        found = rule(text)
        assert (found.dropped == "") == (text in kept)
        assert found.dropped in ("", "language")
        assert found.detail.get("language", model.classify(text)[0]) == model.classify(text)[0]


def test_so_is_what_the_model_is_not_sure_of(model: LanguageIdentifier) -> None:
    code, score = model.classify(MIXED)
    assert score < 0.65
    found = Language(LanguageConfig(keep=code))(MIXED)
    assert found.dropped == "language_unsure"
    assert found.detail == {
        "language": code,
        "setting": "min_score",
        "value": pytest.approx(score, abs=1e-4),
        "limit": 0.65,
    }
    assert Language(LanguageConfig(keep=code, min_score=None))(MIXED).dropped == ""


def test_a_language_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"filter.language.keep=en,eng names eng.*such as en,de"):
        Language(LanguageConfig(keep="en,eng"))
