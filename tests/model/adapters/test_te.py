# SPDX-License-Identifier: Apache-2.0
"""An adapter on Transformer Engine's layers is the one on plain layers, as far as its kernels
compute what they should; on ranks: tests/model/adapters/test_beside.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import AdapterMethod
from tests.adapter_cases.models import models
from tests.family_cases import cases
from tests.model.test_te_precision import require_engine
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]

GPT_OSS = next(case for case in cases().values() if case.model_type == "gpt_oss")
CASES = {
    **{name: models()[name] for name in ("llama", "gemma3", "qwen3-moe")},
    # Biases of experts, which lie within the first product and apart from the second. Where a value
    # is bounded its gradient is cut, and one of so many lies so close that a rounding decides.
    "gpt-oss": replace(GPT_OSS, changes={**GPT_OSS.changes, "swiglu_limit": 7.0}),
    "deepseek": next(case for case in cases().values() if case.model_type == "deepseek_v3"),
}
OF_EXPERTS = ("qwen3-moe", "gpt-oss", "deepseek")
RUNS = [(model, method.name) for model in CASES for method in AdapterMethod]
ATOL = 2e-5
GRADIENT_RTOL = 5e-4
"""Of the largest; PiSSA's are differences of larger numbers."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_engine()
    folder = tmp_path_factory.mktemp("te_runs")
    for name, case in CASES.items():
        case.write(folder / "models" / name)
    target = "tests.model.adapters.te_runs:write_found"
    run_on_ranks(target, folder, world=1, cases=RUNS, timeout_s=900.0)
    return folder


@pytest.fixture
def found(model: str, method: str, work: Path) -> dict[str, Any]:
    read: dict[str, Any] = torch.load(work / f"{model}-{method}.pt", weights_only=False)
    return read


@pytest.mark.parametrize(("model", "method"), RUNS)
def test_logits_and_gradients_equal_those_of_plain_layers(found: dict[str, Any]) -> None:
    engine, plain = found["engine"], found["plain"]
    torch.testing.assert_close(engine["logits"], plain["logits"], atol=ATOL, rtol=0.0)
    assert engine["gradients"].keys() == plain["gradients"].keys()
    assert all(".lora_" in name for name in plain["gradients"])
    for name, gradient in plain["gradients"].items():
        atol = GRADIENT_RTOL * float(gradient.abs().max()) + 1e-9
        torch.testing.assert_close(engine["gradients"][name], gradient, atol=atol, rtol=0.0)


@pytest.mark.parametrize(("model", "method"), RUNS)
def test_checkpoints_and_marks_are_those_of_plain_layers(found: dict[str, Any]) -> None:
    assert found["differences"] == []
    assert found["wrong_marks"] == []


@pytest.mark.parametrize(("model", "method"), RUNS)
def test_the_layers_are_its_own(found: dict[str, Any], model: str) -> None:
    kinds = ["", "Grouped"] if model in OF_EXPERTS else [""]
    assert found["layers"] == {
        f"AdaptedTE{cut}Parallel{kind}Linear" for cut in ("Column", "Row") for kind in kinds
    }
