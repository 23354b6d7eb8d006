# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.adapter_cases.models import NAMES, models
from tests.family_cases import LAYOUTS, is_allowed

WANTED = {"single", "tp2-sp", "pp2", "cp2"}


@pytest.mark.parametrize("name", NAMES)
def test_layouts_that_adapters_are_trained_in_are_allowed(name: str) -> None:
    architecture = models()[name].architecture()
    # Experts are cut with sequence parallelism alone.
    wanted = WANTED | ({"ep2", "tp2-ep2"} if "moe" in name else {"tp2"})
    refused = {n for n in wanted if not is_allowed(LAYOUTS[n], architecture=architecture)}
    assert not refused


def test_ties_are_of_both_kinds() -> None:
    tied = {name for name, case in models().items() if case.architecture().tied_embeddings}
    assert tied == {name for name in NAMES if name.endswith("-tied")}
