# SPDX-License-Identifier: Apache-2.0
"""Under which name a native checkpoint keeps a weight, whatever the modules of the rank are."""

from __future__ import annotations

from megacpt.families import param_rows
from megacpt.families.architecture import Architecture
from megacpt.families.weights import Param

FUSED_NORM = ".layer_norm_"
OF_EXPERTS = ".experts.experts."
_LAYERS, _EXPERTS = "decoder.layers.", ".experts.local_experts."


def saved_name(row: Param, *, architecture: Architecture, layer: int | None) -> str:
    """``{layer}`` and ``{expert}`` open. A norm is part of the linear layer after it, as in
    Transformer Engine, in layers that have this."""
    if row.engine is None or layer is None or FUSED_NORM not in row.engine:
        return row.native
    linear = f"{row.engine.partition(FUSED_NORM)[0]}.weight"
    there = (other for other in param_rows(architecture) if other.native == linear)
    return row.engine if any(o.in_layer(architecture, layer) for o in there) else row.native


def saved_norms(architecture: Architecture, *, layer: int) -> dict[str, str]:
    """Beginnings of the names of a layer's norms -> those they are saved by, where these differ."""
    found = {}
    for row in param_rows(architecture):
        name = saved_name(row, architecture=architecture, layer=layer)
        if row.in_layer(architecture, layer) and name != row.native:
            own, saved = (
                _within_layer(full).rpartition("weight")[0] for full in (row.native, name)
            )
            if own:
                found[own] = saved
    return found


def saved_key(name: str, *, layer: int | None) -> str:
    """The tensor that a saved name stands in: of all experts, and of all layers or of this one."""
    number = "" if layer is None else f"{layer}."
    of_expert = name.replace(f"{_EXPERTS}{{expert}}.", OF_EXPERTS)
    return of_expert.replace(f"{_LAYERS}{{layer}}.", f"{_LAYERS}{number}")


def is_of_vocabulary(key: str) -> bool:
    return key.startswith(("embedding.", "output_layer."))


def _within_layer(name: str) -> str:
    return name.partition("{layer}.")[2]
