# SPDX-License-Identifier: Apache-2.0
"""States of layers beside their weights: what Transformer Engine or its emulation knows of scales.

Every linear layer has one in a checkpoint, Transformer Engine's norms too, most of them empty. A
checkpoint may pass between the two and between recipes, so one that is absent, or was written by
the other, is no error: that layer's scales start again, and the log says so. Weights stay strict.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from megacpt.model.quantise.linear import QuantisedLayer

logger = logging.getLogger(__name__)


def is_layer_state(key: str) -> bool:
    return "_extra_state" in key


def others(keys: Iterable[str]) -> list[str]:
    """The keys that are no layer's state, in order."""
    return sorted(key for key in keys if not is_layer_state(key))


def trained(entries: dict[str, Any]) -> dict[str, Any]:
    """Those of a chunk without the weights that an adapter leaves as the base model's folder holds
    them."""
    return {
        name: entry
        for name, entry in entries.items()
        if not getattr(getattr(entry, "data", None), "of_base", False)
    }


def fill(model: torch.nn.Module, *, loaded: dict[str, Any]) -> None:
    """Fill weights, every one of them, and the states that the model's layers can read."""
    readable = {
        key: value for key, value in loaded.items() if _can_read(model, key=key, value=value)
    }
    mismatch = model.load_state_dict(readable, strict=False)
    of_base = {name for name, held in model.named_parameters() if hasattr(held, "of_base")}
    missing = set(mismatch.missing_keys) - of_base
    wrong = others([*missing, *mismatch.unexpected_keys])
    assert not wrong, f"weights without a place, or places without a weight: {wrong}"
    _report_new_histories(model, loaded=readable)


def _can_read(model: torch.nn.Module, *, key: str, value: Any) -> bool:
    """The emulation writes dictionaries, Transformer Engine tensors of bytes."""
    if not is_layer_state(key) or value is None:
        return True
    layer = model.get_submodule(key.rpartition(".")[0])
    return isinstance(value, dict) == isinstance(layer, QuantisedLayer)


def _report_new_histories(model: torch.nn.Module, *, loaded: dict[str, Any]) -> None:
    """Where delayed scaling is emulated. Transformer Engine's histories start empty as well."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, QuantisedLayer) and layer.get_extra_state() is not None
    }
    new = [n for n in layers if not isinstance(loaded.get(f"{n}._extra_state"), dict)]
    if new:
        logger.warning(
            "precision: the checkpoint holds no amax histories for %d of %d layers; they start "
            "again, with a scale of 1",
            len(new),
            len(layers),
        )
