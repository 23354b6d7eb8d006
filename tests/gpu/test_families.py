# SPDX-License-Identifier: Apache-2.0
"""On one GPU every family computes what transformers does on a CPU (``-m gpu``).

Without a GPU, of the same layers: tests/model/test_te_cases.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.family_cases import VOCAB_SIZE, cases
from tests.model.case_outputs import TOKENS_BS, tokens_of_documents
from tests.run_on_ranks import run_on_ranks

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
pytestmark = [pytest.mark.gpu, pytest.mark.te, pytest.mark.mcore, on_gpu]

CASES = cases()
OTHER_SUMS = 10
"""A GPU's sums have another order than a CPU's; TF32 would be off by a thousand times the bound."""
BF16_SHARE = 2.0
"""How much further off than transformers' bf16 on a CPU: both round, each in places of its own."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("families")
    for name, case in CASES.items():
        case.write(work / "fp32" / name)
        transformers_model(work / "fp32" / name, dtype=torch.bfloat16).save_pretrained(
            work / "bf16" / name
        )
    with pytest.MonkeyPatch.context() as patch:
        # Else Transformer Engine multiplies fp32 in TF32; the ranks inherit it.
        patch.setitem(os.environ, "NVIDIA_TF32_OVERRIDE", "0")
        run_on_ranks("tests.gpu.family_logits:write_logits", work, world=1, cases=list(CASES))
    return work


def transformers_model(folder: Path, *, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def expected(folder: Path, *, dtype: torch.dtype, packed: bool) -> torch.Tensor:
    model = transformers_model(folder, dtype=dtype)
    with torch.no_grad():
        if not packed:
            logits_BSV: torch.Tensor = model(TOKENS_BS).logits.float()
            return logits_BSV
        parts = [model(tokens[None]).logits[0].float() for tokens in tokens_of_documents()]
    return torch.cat(parts).view(*TOKENS_BS.shape, -1)


@pytest.mark.parametrize("case", CASES)
def test_fp32_logits_are_those_of_a_cpu(case: str, work: Path) -> None:
    found = torch.load(work / f"fp32-{case}.pt")["whole"][..., :VOCAB_SIZE]
    wanted = expected(work / "fp32" / case, dtype=torch.float32, packed=False)
    atol = OTHER_SUMS * CASES[case].logits_atol
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0.0)


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("case", CASES)
def test_bf16_logits_are_as_close_as_those_of_a_cpu(case: str, packed: bool, work: Path) -> None:
    folder = work / "bf16" / case
    found = torch.load(work / f"bf16-{case}.pt")["packed" if packed else "whole"]
    exact = expected(folder, dtype=torch.float32, packed=packed)
    rounded = expected(folder, dtype=torch.bfloat16, packed=packed)
    distance = float((found[..., :VOCAB_SIZE] - exact).abs().mean())
    assert distance < BF16_SHARE * float((rounded - exact).abs().mean())
