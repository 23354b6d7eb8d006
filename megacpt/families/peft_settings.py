# SPDX-License-Identifier: Apache-2.0
"""What the settings in PEFT's folder say of an adapter: LoRA, rsLoRA or DoRA; and names of weights
that PEFT treats apart. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megacpt.errors import ModelError

PEFT_SETTINGS = "adapter_config.json"
_OTHER_ARITHMETIC = (
    *("trainable_token_indices", "layer_replication", "alora_invocation_tokens", "lora_bias"),
    *("fan_in_fan_out", "use_qalora", "use_bdlora", "kasa_config", "arrow_config"),
)
"""Settings that make of LoRA something else."""
EXPERTS = ".experts."
"""Within the name of a parameter of all experts of a layer."""
RENAMED_OF_MIXTURES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Last names that PEFT takes for those of experts of transformers 4, wherever they are in a model
with experts: there, the weight is named instead of its module."""


def stated_settings(folder: Path) -> dict[str, Any]:
    """Of a method that can be read; ``ModelError`` names what else they state."""
    path = folder / PEFT_SETTINGS
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not PEFT's ({error!r}); save the adapter again.") from error
    other = [key for key in _OTHER_ARITHMETIC if settings.get(key)]
    if settings.get("bias", "none") != "none":
        other.append("bias")
    if kind != "LORA" or other:
        what = f"{other[0]}={settings[other[0]]}" if other else f"peft_type={kind}"
        raise ModelError(
            f"{path} states {what}; LoRA, rsLoRA and DoRA alone are read here, so merge it into "
            "its model with peft (merge_and_unload), where its method can be."
        )
    return settings


def stated_method(settings: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """By the names of the run's own settings; ``ModelError`` where one is missing or no number."""
    try:
        return {
            "method": "dora" if settings.get("use_dora") else "lora",
            "rank": int(settings["r"]),
            "alpha": float(settings["lora_alpha"]),
            "rank_stabilised": bool(settings.get("use_rslora")),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / PEFT_SETTINGS} does not state rank and alpha as numbers ({error!r}); save "
            "the adapter again."
        ) from error
