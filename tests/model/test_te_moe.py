# SPDX-License-Identifier: Apache-2.0
"""Experts in Transformer Engine's layers: grouped products, and the plain layers' checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.test_te import run_python
from tests.run_on_ranks import run_on_ranks
from tests.support import write_model_folder

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if run_python("-c", "import transformer_engine.pytorch").returncode != 0:
        pytest.skip("Transformer Engine cannot be imported")
    work = tmp_path_factory.mktemp("te-moe")
    write_model_folder(work / "model", **MIXTRAL)
    run_on_ranks("tests.model.te_experts:describe", work, world=1, cases=None, timeout_s=900.0)
    result: dict[str, Any] = torch.load(work / "found.pt")
    return result


def test_the_experts_are_one_grouped_product(found: dict[str, Any]) -> None:
    engine = found["engine"]
    assert (engine["layer"], engine["router"]) == ("TEGroupedMLP", "Router")
    assert (engine["dispatcher"], engine["permutes_in_one_kernel"]) == ("alltoall", True)
    weights = [f"experts.linear_fc{n}.weight{e}" for n in (1, 2) for e in range(4)]
    assert sorted(engine["names"]) == sorted(["router.weight", *weights])
    assert sorted(engine["experts"]) == sorted(weights)


def test_a_checkpoint_of_the_plain_layers_is_theirs(found: dict[str, Any]) -> None:
    """By key, place, shape and values, in both directions."""
    assert found["plain"]["layer"] == "SequentialMLP"
    assert found["engine"]["saved"] == found["plain"]["saved"]
