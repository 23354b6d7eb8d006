# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts: layouts beyond those of all families, and the balancing loss's gradient."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.llama_cases import TOKENS_BS, VOCAB_SIZE
from tests.mixtral_cases import CASES, write_mixtral
from tests.model.layout_runs import (
    LOGITS_ATOL,
    assembled,
    reference,
    run_world,
)
from tests.model.on_one_rank import exported, loaded

pytestmark = pytest.mark.mcore

TP2: dict[str, Any] = {"tp": 2, "sequence_parallel": True}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}},
    2: {"tp2-etp1": TP2 | {"etp": 1}},
    4: {"tp2-etp2-ep2": TP2 | {"dp": 2, "ep": 2}, "pp2-ep2": {"pp": 2, "dp": 2, "ep": 2}},
}
MIXTRAL_NAMES = ("w1", "w3", "w2")
QWEN_NAMES = ("gate_proj", "up_proj", "down_proj")
NAMES = [name for layouts in LAYOUTS.values() for name in layouts]
PAIRS = [(layout, case) for layout in NAMES for case in CASES]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in every layout, one set of processes a world size."""
    work = tmp_path_factory.mktemp("mixtral")
    for case, changes in CASES.items():
        write_mixtral(work / "models" / case, **changes)
    for world_size, layouts in LAYOUTS.items():
        run_world(work, world_size, layouts)
    return work


@pytest.fixture(scope="module")
def references(work: Path) -> dict[str, Any]:
    """Logits and losses of transformers, float32."""
    return {case: reference(work / "models" / case) for case in CASES}


@pytest.mark.parametrize(("layout", "case"), PAIRS)
def test_logits_equal_transformers(
    layout: str, case: str, work: Path, references: dict[str, Any]
) -> None:
    logits_BSV, losses_BS = torch.load(work / f"logits-{layout}-{case}.pt")
    expected_BSV, expected_BS = references[case]
    found_BSV = logits_BSV[..., :VOCAB_SIZE]
    torch.testing.assert_close(found_BSV, expected_BSV, atol=LOGITS_ATOL, rtol=0.0)
    torch.testing.assert_close(losses_BS, expected_BS, atol=LOGITS_ATOL, rtol=0.0)


@pytest.mark.parametrize(("layout", "case"), PAIRS)
def test_random_weights_do_not_depend_on_the_layout(layout: str, case: str, work: Path) -> None:
    single = assembled(work, "single", case)
    found = assembled(work, layout, case)
    assert found.keys() == single.keys()
    assert all(torch.equal(found[name], single[name]) for name in single)


@pytest.mark.parametrize("case", CASES)
def test_both_saved_layouts_hold_the_same_model(
    case: str, work: Path, tmp_path: Path, one_rank: None
) -> None:
    """transformers writes an expert's matrices apart, or, told to, all experts' in one tensor."""
    write_mixtral(tmp_path, stacked=True, **CASES[case])
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "model.safetensors")
    model, architecture = loaded(tmp_path)
    found = exported([model], architecture=architecture, folder=tmp_path)
    expected = load_file(work / "models" / case / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", ["qwen3-top2-of-4", "qwen3-top3-of-6-shares"])
def test_the_other_weights_of_experts_are_another_model(
    case: str, work: Path, tmp_path: Path, references: dict[str, Any], one_rank: None
) -> None:
    """Renormalised or not: far from rounding."""
    folder = tmp_path / "model"
    shutil.copytree(work / "models" / case, folder)
    config = json.loads((folder / "config.json").read_text())
    config["norm_topk_prob"] = not config["norm_topk_prob"]
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = loaded(folder)
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    with torch.no_grad():
        found_BSV = model(TOKENS_BS, positions_BS, None)
    assert float((found_BSV - references[case][0]).abs().max()) > 1000 * LOGITS_ATOL


def twin_of_balancing_loss(logits_TE: torch.Tensor, *, per_token: int) -> torch.Tensor:
    """Of one layer, summed over samples and weighted with their tokens: written from the paper."""
    samples, tokens = TOKENS_BS.shape
    total = torch.zeros(())
    for logits_SE in logits_TE.view(samples, tokens, -1):
        num_experts = logits_SE.shape[1]
        chosen_SK = logits_SE.topk(per_token).indices
        for expert in range(num_experts):
            share = (chosen_SK == expert).sum() / (tokens * per_token)
            probability = logits_SE.softmax(dim=1)[:, expert].mean()
            total = total + tokens * num_experts * share * probability
    return total


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_transformers_with_the_balancing_loss(
    case: str, work: Path, one_rank: None
) -> None:
    from transformers import AutoModelForCausalLM

    from megacpt.model.layers.router import take_figures
    from megacpt.model.placement import placed_params

    model, architecture = loaded(work / "models" / case)
    experts = architecture.experts
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    model(TOKENS_BS, positions_BS, None, labels=TOKENS_BS).sum().backward()

    reference = AutoModelForCausalLM.from_pretrained(work / "models" / case).float().eval()
    output = reference(TOKENS_BS, output_router_logits=True)
    flat = output.logits.flatten(0, 1), TOKENS_BS.flatten()
    balance = sum(
        twin_of_balancing_loss(logits_TE, per_token=experts.per_token)
        for logits_TE in output.router_logits
    )
    losses = torch.nn.functional.cross_entropy(*flat, reduction="sum")
    (losses + experts.balance_coefficient * balance).backward()
    expected = gradients_by_saved_name(reference)
    for placed in placed_params([model], architecture=architecture):
        views = placed.row.views(placed.tensor.grad, architecture=architecture, tp=1)
        for source, view in zip(placed.row.sources, views, strict=True):
            name = placed.hf_name(source)
            torch.testing.assert_close(
                view.flatten(0, 1), expected[name], atol=2e-4, rtol=1e-4, msg=name
            )
    figures = take_figures([model])
    assert figures is not None
    mean = float(balance.detach()) / TOKENS_BS.numel() / architecture.num_layers
    assert figures.balance_loss == pytest.approx(mean, rel=1e-5)


def gradients_by_saved_name(model: Any) -> dict[str, torch.Tensor]:
    """Under the names of a folder, the stacked experts taken apart."""
    is_mixtral = model.config.model_type == "mixtral"
    gate_name, up_name, down_name = MIXTRAL_NAMES if is_mixtral else QWEN_NAMES
    found: dict[str, torch.Tensor] = {}
    for name, param in model.named_parameters():
        saved = name.replace(".mlp.", ".block_sparse_moe.") if is_mixtral else name
        if name.endswith("experts.gate_up_proj"):
            for n, (gate, up) in enumerate(g.chunk(2) for g in param.grad):
                stem = f"{saved.removesuffix('gate_up_proj')}{n}"
                found |= {f"{stem}.{gate_name}.weight": gate, f"{stem}.{up_name}.weight": up}
        elif name.endswith("experts.down_proj"):
            stem = saved.removesuffix("down_proj")
            found |= {f"{stem}{n}.{down_name}.weight": grad for n, grad in enumerate(param.grad)}
        else:
            found[saved] = param.grad
    return found
