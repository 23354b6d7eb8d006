# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder as transformers computes it: the other side of every comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_transformers(folder: Path, *, device: torch.device) -> Any:
    """The folder as transformers loads it, offline, in float32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True)
    return model.float().to(device).eval()
