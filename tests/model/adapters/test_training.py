# SPDX-License-Identifier: Apache-2.0
"""Adapters train on every layout as on one rank; there as peft's do, or LoRA-XS's paper says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.adapter_cases import lora_xs_twin, peft_twin
from tests.adapter_cases.experts import unstack
from tests.adapter_cases.models import TARGETS, models
from tests.adapter_cases.training import AdamW, Multipliers, Trained
from tests.model.adapters.training_runs import (
    ALPHA,
    BATCHES,
    LAYOUTS,
    METHODS,
    NEW_FROM,
    OPTIM,
    RANK,
    STEPS,
    lr_of,
    ranks_of,
)
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.mcore, pytest.mark.slow]

MODELS = ("llama-tied", "qwen3", "gemma3", "qwen3-moe")
TABLES = ("tables", "new_tokens")
FEWER = {"qwen3": ("lora",), "gemma3": ("dora",), "qwen3-moe": ("lora", "lora_xs")}
"""Methods of a model without --thorough; of those that stand nowhere here all."""
RUNS = [
    *(f"{model}.{method}" for model in MODELS for method in METHODS if method not in TABLES),
    *(f"{model}.{method}" for model in ("llama", "llama-tied") for method in TABLES),
]
OF_EXPERTS = ("ep2", "tp2-ep2")
NOT_OF_EXPERTS = ("tp2",)
"""Tensor parallelism without that of the sequence is refused."""
PREFIX = "base_model.model."
NOT_DECAYED = (("lora_magnitude_vector",), ("embed_tokens", "lm_head"))
LAYOUT_RTOL = 1e-5
TWIN_RTOL = 1e-4


def is_thorough(run: str) -> bool:
    model, method = run.split(".")
    return model == "llama" or method not in FEWER.get(model, METHODS)


RUN_PARAMS = [
    pytest.param(run, marks=[pytest.mark.thorough] if is_thorough(run) else []) for run in RUNS
]


def allowed(run: str) -> list[str]:
    wrong = NOT_OF_EXPERTS if "moe" in run else OF_EXPERTS
    return [name for name in LAYOUTS if name not in wrong]


def dealt(run: str) -> list[str]:
    """Of one run all; of the others one rank and one more in turn, of that run's model two, of
    experts ep2 besides."""
    if run == "llama-tied.lora":
        return allowed(run)
    others = [name for name in allowed(run) if name not in ("single", "ep2")]
    count = 2 if run.startswith("llama-tied") else 1
    first = RUNS.index(run) * count
    picked = [others[(first + n) % len(others)] for n in range(count)]
    return ["single", *picked, *(["ep2"] if "moe" in run else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the ranks have found, and what the twins begin with."""

    folder: Path
    layouts: Mapping[str, Sequence[str]]

    def found(self, layout: str, *, run: str) -> dict[str, Any]:
        """By the first rank; losses are the same on all."""
        found: dict[str, Any] = torch.load(self.folder / f"{layout}-{run}-0.pt")
        return found

    def tensors(self, run: str, *, of: str) -> dict[str, torch.Tensor]:
        """Of one rank, the adapter's, by the names of a folder."""
        places, values = self.found("single", run=run)[of]
        sizes = [int(np.prod(shape)) for _, _, shape in places.values()]
        pieces = zip(places.items(), values.split(sizes), strict=True)
        return {name: piece.view(shape) for (name, (_, _, shape)), piece in pieces}


@pytest.fixture(scope="module")
def work(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Work]:
    """All runs, one set of processes a world size."""
    folder = tmp_path_factory.mktemp("adapters")
    mine = [item for item in request.session.items if item.path == request.path]
    asked = dict.fromkeys(i.callspec.params["run"] for i in mine if hasattr(i, "callspec"))
    for model in dict.fromkeys(run.split(".")[0] for run in asked):
        models()[model].write(folder / "models" / model)
    for run in asked:
        if (start := start_of(run, folder=folder)) is not None:
            torch.save(native_names(start, run=run), folder / f"start-{run}.pt")
    of_run = allowed if request.config.getoption("--thorough") else dealt
    layouts = {run: of_run(run) for run in asked}
    for world in sorted({ranks_of(layout) for layout in LAYOUTS}):
        run_on_ranks(
            "tests.model.adapters.training_runs:write_runs",
            folder,
            world=world,
            cases={
                layout: [run for run in asked if layout in layouts[run]]
                for layout in LAYOUTS
                if ranks_of(layout) == world
            },
            timeout_s=1800.0,
        )
    yield Work(folder=folder, layouts=layouts)
    shutil.rmtree(folder)


def peft_config(run: str) -> Any:
    from peft import LoraConfig

    method = run.split(".")[1]
    tables = {
        "modules_to_save": ["embed_tokens", *([] if "tied" in run else ["lm_head"])],
        "ensure_weight_tying": "tied" in run,
    }
    changes: dict[str, dict[str, Any]] = {
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "pissa": {"init_lora_weights": "pissa"},
        **dict.fromkeys(TABLES, tables),
    }
    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), **changes.get(method, {})
    )


def prepare_of(run: str) -> Any:
    return unstack if "moe" in run else None


@cache
def start_of(run: str, *, folder: Path) -> dict[str, torch.Tensor] | None:
    """No factor of zeros, which would prove nothing of the other; None: the method's own."""
    base, prepare = folder / "models" / run.split(".")[0], prepare_of(run)
    if run.endswith(".pissa"):
        return None
    if run.endswith(".lora_xs"):
        return lora_xs_twin.random_start(base, rank=RANK, targets=TARGETS, prepare=prepare)
    return peft_twin.random_start(base, config=peft_config(run), prepare=prepare)


def native_names(start: Mapping[str, torch.Tensor], *, run: str) -> dict[str, torch.Tensor]:
    """As the rows of an adapter call them; the paper's R multiplies from the right."""
    if run.endswith(".lora_xs"):
        return {f"{name}.lora_core.weight": r.T.contiguous() for name, r in start.items()}
    return {name.removeprefix(PREFIX): tensor for name, tensor in start.items()}


def twin(run: str, *, folder: Path) -> Trained:
    base, start = folder / "models" / run.split(".")[0], start_of(run, folder=folder)
    optim = AdamW(
        lr_by_step=[lr_of(run)] * STEPS,
        beta1=OPTIM.beta1,
        beta2=OPTIM.beta2,
        eps=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
        clip_grad_norm=OPTIM.clip_grad_norm,
        multipliers=dict.fromkeys(NOT_DECAYED[run.endswith(".new_tokens")], Multipliers(decay=0.0)),
    )
    given: dict[str, Any] = {"batches": BATCHES, "optim": optim, "prepare": prepare_of(run)}
    if run.endswith(".lora_xs"):
        assert start is not None
        return lora_xs_twin.lora_xs_twin(
            base, rank=RANK, alpha=ALPHA, targets=TARGETS, start=start, **given
        )
    frozen = NEW_FROM if run.endswith(".new_tokens") else 0
    return peft_twin.peft_twin(
        base, config=peft_config(run), start=start, frozen_rows=frozen, **given
    )


@pytest.mark.parametrize("run", RUN_PARAMS)
def test_every_layout_trains_as_one_rank_does(run: str, work: Work) -> None:
    expected = work.found("single", run=run)
    # Each batch is another one.
    assert sum(expected["losses"][-5:]) < 0.98 * sum(expected["losses"][:5])
    for layout in work.layouts[run]:
        found = work.found(layout, run=run)
        for what in ("losses", "norms"):
            # The norm of a gradient moves with every rounding of what it is made of.
            rtol = LAYOUT_RTOL if what == "losses" else 10 * LAYOUT_RTOL
            np.testing.assert_allclose(found[what], expected[what], rtol=rtol, err_msg=layout)


@pytest.mark.parametrize("run", RUN_PARAMS)
def test_one_rank_trains_as_the_twin_does(run: str, work: Work) -> None:
    expected = twin(run, folder=work.folder)
    found = work.found("single", run=run)
    np.testing.assert_allclose(found["losses"], expected.losses, rtol=TWIN_RTOL)
    np.testing.assert_allclose(found["norms"], expected.gradient_norms, rtol=10 * TWIN_RTOL)
    if run.endswith(".pissa"):
        return
    for of, tensors in {"gradients": expected.gradients, "weights": expected.tensors}.items():
        of_twin = native_names(tensors, run=run)
        own = work.tensors(run, of=of)
        for name, tensor in of_twin.items():
            if name == "lm_head.weight" and "tied" in run:
                continue
            scale = float(tensor.abs().max())
            close = {"atol": 1e-3 * scale, "rtol": 0.0}
            torch.testing.assert_close(
                own[name], tensor, msg=lambda m, n=name: f"{n}: {m}", **close
            )
