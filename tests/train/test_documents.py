# SPDX-License-Identifier: Apache-2.0
"""With a document mask each document is read as if it were alone, on every layout."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.llama_cases import CASES, write_llama
from tests.run_on_ranks import run_on_ranks
from tests.train.masked_logits import BOUNDS, CHANGES, changed_tokens
from tests.train.parity import assert_same_curve, train_curves, write_run_inputs

pytestmark = pytest.mark.mcore

WRITE_LOGITS = "tests.train.masked_logits:write_all"
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}},
    2: {
        "tp2": {"tp": 2},
        "tp2-sp": {"tp": 2, "sequence_parallel": True},
        "pp2": {"pp": 2},
        "pp2-vpp2": {"pp": 2, "vpp": 2},
        "dp2": {"dp": 2},
    },
}
NAMES = [name for layouts in LAYOUTS.values() for name in layouts]
LOGITS_ATOL = 2e-5
"""fp32, as for whole rows (tests/model/test_layouts.py)."""
BF16_ATOL = 0.1
"""transformers in bf16 differs from itself in fp32 by up to 0.05 on these documents."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("documents")
    write_llama(work / "model", **CASES["tied-gqa"])
    for world, layouts in LAYOUTS.items():
        run_on_ranks(WRITE_LOGITS, work, world=world, cases=layouts)
    return work


@pytest.fixture(scope="module")
def alone(work: Path) -> dict[tuple[str, int, int], torch.Tensor]:
    """Logits_LV of transformers for each document by itself: (changed, row, document) -> logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "model").float().eval()
    found = {}
    with torch.no_grad():
        for changed in CHANGES:
            for row, bounds in enumerate(BOUNDS):
                for document, (start, stop) in enumerate(pairwise(bounds)):
                    tokens_1L = changed_tokens(changed)[row : row + 1, start:stop]
                    found[changed, row, document] = model(tokens_1L).logits[0]
    return found


def documents_of(work: Path, name: str) -> dict[tuple[int, int], torch.Tensor]:
    """(row, document) -> logits_LV."""
    return {
        (row, document): torch.load(work / f"{name}-{row}.pt")[start:stop]
        for row, bounds in enumerate(BOUNDS)
        for document, (start, stop) in enumerate(pairwise(bounds))
    }


@pytest.mark.parametrize(("dtype", "atol"), [("fp32", LOGITS_ATOL), ("bf16", BF16_ATOL)])
@pytest.mark.parametrize("layout", NAMES)
def test_each_document_equals_transformers_on_it_alone(
    layout: str, dtype: str, atol: float, work: Path, alone: dict[Any, torch.Tensor]
) -> None:
    for changed in CHANGES:
        found = documents_of(work, f"{layout}-{dtype}-{changed}")
        for (row, document), logits_LV in found.items():
            torch.testing.assert_close(
                logits_LV.float(), alone[changed, row, document], atol=atol, rtol=0.0
            )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", NAMES)
def test_no_bit_changes_in_other_documents(layout: str, dtype: str, work: Path) -> None:
    before = documents_of(work, f"{layout}-{dtype}-none")
    for changed in CHANGES[1:]:
        after = documents_of(work, f"{layout}-{dtype}-{changed}")
        for (row, document), logits_LV in after.items():
            is_same = torch.equal(logits_LV, before[row, document])
            assert is_same != ((row, document) == (0, int(changed))), (row, document)


@pytest.mark.gpu
@pytest.mark.te
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_reads_documents_as_a_cpu_does(work: Path, alone: dict[Any, torch.Tensor]) -> None:
    run_on_ranks(WRITE_LOGITS, work, world=1, cases={"gpu": {}})
    test_each_document_equals_transformers_on_it_alone("gpu", "bf16", BF16_ATOL, work, alone)
    test_no_bit_changes_in_other_documents("gpu", "bf16", work)


MASKED: dict[str, Any] = {"document_mask": True, "micro_batch_size": 2}
CURVES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "single": {"data": MASKED},
        "bf16": {"data": MASKED, "precision": {"dtype": "bf16"}},
        "unmasked": {},
    },
    2: {
        "tp2": {"data": MASKED, "parallel": {"tp": 2, "sequence_parallel": True}},
        "pp2": {"data": MASKED, "parallel": {"pp": 2}},
    },
}


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("curves")
    write_run_inputs(work, tied=True)
    return train_curves(work, CURVES)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_layout_equals_single_rank(layout: str, curves: dict[str, np.ndarray]) -> None:
    assert_same_curve(curves[layout], curves["single"])


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(curves: dict[str, np.ndarray]) -> None:
    losses = curves["single"][:, 0]
    assert losses[-1] < losses[0] - 0.05
    np.testing.assert_allclose(curves["bf16"][:, 0], losses, rtol=5e-3)


@pytest.mark.slow
def test_the_mask_changes_what_is_learned(curves: dict[str, np.ndarray]) -> None:
    """Documents of 20 to 90 tokens in samples of 32: most samples hold parts of two."""
    assert abs(curves["single"][0, 0] - curves["unmasked"][0, 0]) > 1e-4
