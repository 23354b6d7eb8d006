# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder as transformers computes it: the other side of every comparison. What loads
torch is imported where it is used, for those who only may need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nested import text_of

if TYPE_CHECKING:
    import torch


def load_transformers(folder: Path, *, device: torch.device | str) -> Any:
    """The folder as transformers loads it, offline, in float32."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = _kind(folder).from_pretrained(str(folder), local_files_only=True)
    return model.float().to(device).eval()


def without_weights(folder: Path) -> Any:
    """The same model on the meta device."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    with torch.device("meta"):
        return _kind(folder).from_config(config)


def _kind(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    has_parts = text_of(HfConfig.read(folder)) is not None
    return AutoModelForImageTextToText if has_parts else AutoModelForCausalLM
