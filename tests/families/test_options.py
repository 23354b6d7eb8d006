# SPDX-License-Identifier: Apache-2.0
"""The cases of a family (tests/family_cases/) have two values of each option that its reader reads,
so that an option that is read wrongly, or not at all, makes one of them fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from megacpt.families import FAMILIES
from megacpt.families.hf_config import HfConfig
from tests.family_cases import cases, cases_of_families

CASES = cases()
GETTERS = (
    *("integer", "number", "numbers", "flag", "flags", "names"),
    *("layers", "window", "cap", "activation"),
)
ELSEWHERE = {
    "vocab_size": "of the token ids that all cases share",
    "num_hidden_layers": "two for each of two virtual stages",
    "max_position_embeddings": "changes nothing below it, but what the rope takes from it",
    "initializer_range": "of random weights alone",
    "router_aux_loss_coef": "of a loss beside that of the text",
}


class Reads:
    """What a reader has asked a config.json for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, set[str]] = defaultdict(set)
        self.fixed: set[str] = set()
        """Keys that may have no other value."""
        for name in GETTERS:
            patch.setattr(HfConfig, name, self._watched(getattr(HfConfig, name)))
        patch.setattr(HfConfig, "rope", self._rope(HfConfig.rope))
        patch.setattr(HfConfig, "require", self._require(HfConfig.require))

    def _watched(self, get: Callable[..., Any]) -> Callable[..., Any]:
        def watched(config: HfConfig, key: str, **options: Any) -> Any:
            value = get(config, key, **options)
            self.values[key].add(repr(value))
            return value

        return watched

    def _rope(self, get: Callable[..., Any]) -> Callable[..., Any]:
        def watched(config: HfConfig, **options: Any) -> Any:
            found = get(config, **options)
            self.values["rope_parameters"].add(repr(found.rope))
            return found

        return watched

    def _require(self, require: Callable[..., None]) -> Callable[..., None]:
        def watched(config: HfConfig, key: str, **options: Any) -> None:
            self.fixed.add(key)
            require(config, key, **options)

        return watched


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_option_has_two_values(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, stated = Reads(monkeypatch), set[str]()
    names = cases_of_families()[model_type]
    for name in names:
        # Whatever a reader takes for granted of this family, transformers' class has no key for.
        stated |= CASES[name].config().to_dict().keys()
        CASES[name].architecture()
    once = {key for key, values in reads.values.items() if len(values) == 1}
    alone = sorted((once & stated) - reads.fixed - ELSEWHERE.keys())
    assert not alone, f"all cases of {model_type} have one value of {alone}"
    assert len(names) >= 6


def test_a_case_too_few_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    CASES["llama-plain"].architecture()
    assert reads.values["attention_bias"] == {"False"}
    CASES["llama-tied-all-biases"].architecture()
    assert reads.values["attention_bias"] == {"False", "True"}
