# SPDX-License-Identifier: Apache-2.0
"""Adapters of small models whose every value is drawn, so that none is without effect."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import AdapterConfig, AdapterMethod
from megacpt.convert.sources import SourceModel
from megacpt.families import read_architecture
from megacpt.families.adapter import saved_rows
from megacpt.families.targets import with_adapter
from megacpt.families.weights import Role
from tests.convert.support import held_in_memory

STD = 0.1
RANK = 3


def drawn_adapter(
    base: Path, *, method: str = "lora", seed: int = 5, **settings: Any
) -> SourceModel:
    """As a checkpoint holds it, of the model in a folder."""
    settings = {"rank": RANK, "alpha": 5.0, **settings}
    architecture = with_adapter(
        read_architecture(base), settings=AdapterConfig(method=AdapterMethod[method], **settings)
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for row in saved_rows(architecture):
        layers = row.layers(architecture) if row.per_layer else (None,)
        num = architecture.experts.num if row.per_expert and architecture.experts else 0
        experts = range(num) if row.per_expert else (None,)
        for layer, expert, source in product(layers, experts, row.sources):
            values = torch.randn(source.shape(architecture), generator=generator) * STD
            if row.role is Role.magnitude:
                values = values.abs() + 0.5
            name = source.name.format(layer=layer, expert=expert)
            assert name not in tensors
            tensors[name] = held_in_memory(values)
    return SourceModel(folder=base, described_by=base, architecture=architecture, tensors=tensors)
