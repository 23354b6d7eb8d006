# SPDX-License-Identifier: Apache-2.0
"""Small random models of every family, a file a group; tests/model/test_cases.py runs each of them.

A file has ``CASES``: its cases by name. Options have values that bite: a model that leaves one out
is far from transformers' (``Case.without``, ``Case.spoilt``).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import ParallelConfig, RunConfig
from megacpt.families import FAMILIES
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.plan.check import LAYOUT_RULES
from megacpt.plan.rules import Facts

VOCAB_SIZE = 131
"""Prime, so no tensor-parallel size divides it."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the ranks of a world share a model."""

    ranks: int
    parallel: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False
    """The samples are cut into documents that do not see each other."""

    @property
    def config(self) -> ParallelConfig:
        return ParallelConfig(**self.parallel)


TP2 = {"tp": 2, "sequence_parallel": True}
LAYOUTS: dict[str, Layout] = {
    "single": Layout(ranks=1),
    "packed": Layout(ranks=1, packed=True),
    "tp2": Layout(ranks=2, parallel={"tp": 2}),
    "tp2-sp": Layout(ranks=2, parallel=TP2),
    "packed-tp2-sp": Layout(ranks=2, parallel=TP2, packed=True),
    "tp2-ep2": Layout(ranks=2, parallel=TP2 | {"ep": 2, "etp": 1}),
    "ep2": Layout(ranks=2, parallel={"dp": 2, "ep": 2}),
    "pp2": Layout(ranks=2, parallel={"pp": 2}),
    "pp2-vpp2": Layout(ranks=2, parallel={"pp": 2, "vpp": 2}),
    "packed-pp2": Layout(ranks=2, parallel={"pp": 2}, packed=True),
    "cp2": Layout(ranks=2, parallel={"cp": 2}),
    "tp3": Layout(ranks=3, parallel={"tp": 3}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A random model, by what its config.json says."""

    model_type: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of ``SIZES``; a key whose value is ``...`` is left out."""
    without: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What -> keys of config.json that take it away and fit the same weights."""
    spoilt: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    """What -> how to take it away from megatron-core's model, its weights loaded."""
    draw: Callable[[str, torch.nn.Parameter], bool] = lambda name, parameter: False
    """Give a parameter of transformers other values than below; whether it did."""
    stored_as: Callable[[str], str] = lambda name: name
    """A parameter of transformers -> what its folder calls it."""
    logits_atol: float = 2e-5
    """Float32 rounding of four layers, summed in another order; above it only with a measured
    noise of the reference itself."""

    def config(self) -> Any:
        """What config.json says, as transformers holds it."""
        from transformers import AutoConfig

        values = {k: v for k, v in {**SIZES, **self.changes}.items() if v is not ...}
        # A copy, because transformers writes into the values that it is given.
        return AutoConfig.for_model(self.model_type, **deepcopy(values))

    def architecture(self) -> Architecture:
        stated = json.loads(self.config().to_json_string())
        config = HfConfig(path=Path("config.json"), values=stated)
        return FAMILIES[self.model_type].read(config)

    def write(self, folder: Path, *, seed: int = 1) -> Any:
        """Save the model as transformers does; returns it.

        Norms and biases are far from their first values, routers sure of their choice.
        """
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if self.draw(name, parameter):
                continue
            if parameter.dim() == 1:
                parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.3)
            elif name.endswith((".gate.weight", ".router.weight")):
                parameter.data.normal_(0.0, 1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.normal_(0.0, 0.3)
        model = model.eval()
        model.save_pretrained(folder)
        return model


def cases() -> dict[str, Case]:
    """All of them, by ``GROUP-NAME``."""
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(__path__):
        group = importlib.import_module(f"{__name__}.{module.name}").CASES
        found |= {f"{module.name}-{name}": case for name, case in group.items()}
    return found


def is_allowed(layout: Layout, *, architecture: Architecture) -> bool:
    """Whether the rules that a run must keep let this model be cut so."""
    config = RunConfig(parallel=layout.config)
    facts = Facts(config=config, architecture=architecture, num_ranks=layout.ranks)
    return not any(violation for rule in LAYOUT_RULES for violation in rule(facts))


def cases_of_families() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, case in cases().items():
        found[case.model_type].append(name)
    return found


def allowed_layouts() -> dict[str, list[str]]:
    """By case, all that the rules of its family let it be run on."""
    architectures = {name: case.architecture() for name, case in cases().items()}
    return {
        name: [n for n, layout in LAYOUTS.items() if is_allowed(layout, architecture=architecture)]
        for name, architecture in architectures.items()
    }


def dealt_layouts(allowed: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By case, its share of them: those of one rank, and of a family every third of the others,
    which go to its cases in turn. The next families have those between."""
    shares: dict[str, list[str]] = {name: [] for name in allowed}
    for place, names in enumerate(cases_of_families().values()):
        for turn, (layout, how) in enumerate(LAYOUTS.items()):
            able = [name for name in names if layout in allowed[name]]
            for number, name in enumerate(able):
                is_next = number == turn // 3 % len(able) and (place + turn) % 3 == 0
                if how.ranks == 1 or is_next:
                    shares[name].append(layout)
    return shares
