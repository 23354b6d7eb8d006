# SPDX-License-Identifier: Apache-2.0
"""What transformers calls the parameters of a model that it has loaded, by which PEFT finds them: a
folder's own names are changed on the way (experts stacked, parts renamed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megacpt.convert.by_transformers import without_weights
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.naming import Naming, naming_of
from megacpt.families.stored.places import hf_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A loaded model."""

    naming: Naming
    shapes: Mapping[str, tuple[int, ...]]
    """Of its parameters."""
    inputs_first: frozenset[str]
    """Modules that say of themselves that their matrices have inputs before outputs."""


def live_model(folder: Path, *, architecture: Architecture) -> Live:
    """As the class in memory names them; takes no memory for weights."""
    model = without_weights(folder)
    shapes = {name: tuple(held.shape) for name, held in model.named_parameters()}
    return Live(
        naming=naming_of(HfConfig.read(folder), names=hf_shapes(architecture), stored=shapes),
        shapes=shapes,
        inputs_first=frozenset(
            name
            for name, module in model.named_modules()
            if getattr(module, "is_transposed", False)
        ),
    )
