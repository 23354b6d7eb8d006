# SPDX-License-Identifier: Apache-2.0
"""On a rank: build each case on GPTModel and on HybridModel, in every layout, and compare all bits.

Models are in WORK/models/CASE. What was compared and what differs goes to
WORK/LAYOUT-CASE-RANK.json; the test process judges.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from megacpt.config.sections import Dtype, Recompute
from tests.family_cases import LAYOUTS as ALL_LAYOUTS
from tests.family_cases import Case, Layout, cases, is_allowed
from tests.model.case_outputs import build, outputs
from tests.rank import rank_on_cpu

LAYOUTS = {
    **{n: ALL_LAYOUTS[n] for n in ("single", "packed", "tp2-sp", "ep2", "pp2", "pp2-vpp2", "cp2")},
    "recomputed": Layout(ranks=1, parallel={"recompute": Recompute.full}),
    "uneven": Layout(ranks=2, parallel={"pp": 2, "first_stage_layers": 3}),
    "uneven-vpp2": Layout(ranks=2, parallel={"pp": 2, "vpp": 2, "first_stage_layers": 4}),
}


def own_cases() -> dict[str, Case]:
    """One of each kind of layer, and one that four layers of six fit in a stage."""
    every = cases()
    llama = every["llama-plain"]
    return {
        "llama": replace(llama, changes={**llama.changes, "num_hidden_layers": 6}),
        "qwen3-moe": every["routed-qwen3-moe-first-dense"],
        "gemma3": every["norms-gemma3"],
        "qwen3.5": every["delta_nets-qwen3.5"],
        "cohere2": every["norms-cohere2-tied"],
    }


def write_differences(work: Path, layouts: list[str]) -> None:
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel
        from megacpt.families import read_architecture

        for name in layouts:
            layout = LAYOUTS[name]
            initialise_parallel(layout.config, seed=1)
            for folder in sorted((work / "models").iterdir()):
                architecture = read_architecture(folder).balanced_by(0.0)
                if is_allowed(layout, architecture=architecture):
                    found = compared(folder, layout=layout, architecture=architecture)
                    rank = torch.distributed.get_rank()
                    (work / f"{name}-{folder.name}-{rank}.json").write_text(json.dumps(found))
            parallel_state.destroy_model_parallel()


def compared(folder: Path, *, layout: Layout, architecture: Any) -> dict[str, bool]:
    """What was looked at -> whether it is the same on both."""
    from megacpt.model.blocks import blocks_of
    from megacpt.model.core.gpt import OnGpt
    from megacpt.model.core.hybrid import OnHybrid

    tensors, saved = [], []
    for model in (OnGpt, OnHybrid):
        with patch("megacpt.model.build.Model", model):
            found = outputs(folder, layout=layout, architecture=architecture)
            chunks = build(architecture, layout=layout, dtype=Dtype.bf16)
        assert all(isinstance(chunk, model) for chunk in chunks)
        tensors.append(dict(named(found)))
        saved.append([blocks_of(chunk) for chunk in chunks])
    on_gpt, on_hybrid = tensors
    assert on_gpt.keys() == on_hybrid.keys()
    same = {name: torch.equal(tensor, on_hybrid[name]) for name, tensor in on_gpt.items()}
    return same | {"checkpoint": saved[0] == saved[1]}


def named(found: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of ``outputs``; one that is of several under the names of these."""
    for what, value in found.items():
        if isinstance(value, torch.Tensor):
            yield what, value
        elif value is not None:
            places, values = value
            yield f"{what} of {', '.join(places)}", values
