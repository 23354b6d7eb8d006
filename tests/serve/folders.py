# SPDX-License-Identifier: Apache-2.0
"""Small folders to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import Dtype
from megacpt.serve.model import ServedModel, load_served
from tests.support import write_model_folder


def serve(folder: Path, *, base: Path | None = None) -> ServedModel:
    return load_served(folder, base=base, name="m", device=torch.device("cpu"), dtype=Dtype.fp32)


def write_model(folder: Path, **changes: Any) -> Path:
    """With random weights and the tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    write_model_folder(folder, **changes)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder
