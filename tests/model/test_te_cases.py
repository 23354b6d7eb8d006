# SPDX-License-Identifier: Apache-2.0
"""Of Transformer Engine's layers every family is transformers' model too, as far as their kernels
compute what they should; its checkpoints are those of the plain layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.family_cases import cases
from tests.model.case_outputs import TOKENS_BS, tokens_of_documents
from tests.model.te_cases import is_cut
from tests.model.test_te_precision import require_engine
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]

CASES = {name: case for name, case in cases().items() if not is_cut(case.changes)}


@dataclass(frozen=True)
class Reference:
    """transformers' logits."""

    folder: Path

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def logits_of(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits_BSV: torch.Tensor = self.model(tokens_BS).logits
        return logits_BSV


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The cases of the tests that were asked for."""
    require_engine()
    folder = tmp_path_factory.mktemp("te_cases")
    mine = [item for item in request.session.items if item.path == request.path]
    asked = list({item.callspec.params["case"]: None for item in mine if hasattr(item, "callspec")})
    for case in asked:
        CASES[case].write(folder / "models" / case)
    run_on_ranks("tests.model.te_cases:write_found", folder, world=1, cases=asked, timeout_s=900.0)
    return folder


@pytest.fixture
def found(case: str, work: Path) -> dict[str, Any]:
    read: dict[str, Any] = torch.load(work / f"{case}.pt")
    return read


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, work: Path, found: dict[str, Any]) -> None:
    reference, close = Reference(work / "models" / case), {"atol": CASES[case].logits_atol}
    expected = reference.logits_of(TOKENS_BS)
    torch.testing.assert_close(found["logits"], expected, rtol=0.0, **close)
    documents = [reference.logits_of(tokens[None])[0] for tokens in tokens_of_documents()]
    torch.testing.assert_close(found["packed"], torch.cat(documents), rtol=0.0, **close)
    for what, logits in found["without"].items():
        assert float((logits - expected).abs().max()) > 1000 * CASES[case].logits_atol, what


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_are_those_of_the_plain_layers(case: str, found: dict[str, Any]) -> None:
    """By key, place and value."""
    assert found["differences"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_marked_as_cut_where_it_is(case: str, found: dict[str, Any]) -> None:
    assert found["wrong_marks"] == []
