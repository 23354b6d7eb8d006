# SPDX-License-Identifier: Apache-2.0
"""An update beside a layer's product is the one within it, of plain layers on two ranks.

Beside Transformer Engine's own layers: tests/model/adapters/test_te.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapter_cases.models import models
from tests.model.adapters.beside_runs import ABLATIONS, COMPARED, MODEL
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore]

RTOL = 1e-6
GRADIENT_RTOL = 1e-5
"""Of the largest: sums in another order."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    models()[MODEL].write(folder / "models" / MODEL)
    target = "tests.model.adapters.beside_runs:write_runs"
    run_on_ranks(target, folder, world=2, cases=list(ABLATIONS))
    return folder


def gradients(slices: Any) -> dict[str, torch.Tensor]:
    places, values = slices
    pieces = values.split([math.prod(shape) for _, _, shape in places.values()])
    return dict(zip(places, pieces, strict=True))


def worst(found: dict[str, Any], *, expected: dict[str, Any]) -> float:
    """How far the gradient that differs most does, beside its largest number."""
    theirs, ours = (gradients(of["gradients"]) for of in (expected, found))
    assert ours.keys() == theirs.keys()
    scales = {name: float(tensor.abs().max()) for name, tensor in theirs.items()}
    assert min(scales.values()) > 0
    return max(float((ours[n] - theirs[n]).abs().max()) / scales[n] for n in theirs)


@pytest.mark.parametrize("method", COMPARED)
@pytest.mark.parametrize("layout", ABLATIONS)
def test_loss_and_gradients_are_those_within_the_product(
    layout: str, method: str, work: Path
) -> None:
    for rank in range(2):
        found = torch.load(work / f"{layout}-{method}-{rank}.pt")
        assert found["beside"]["loss"] == pytest.approx(found["within"]["loss"], rel=RTOL)
        assert worst(found["beside"], expected=found["within"]) < GRADIENT_RTOL
        for what in ABLATIONS[layout]:
            assert worst(found[what], expected=found["within"]) > 1000 * GRADIENT_RTOL, what
