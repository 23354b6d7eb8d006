# SPDX-License-Identifier: Apache-2.0
"""Whole models in the test's own process, which is the only rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import TOKENS_BS


def loaded(folder: Path) -> tuple[Any, Any]:
    """The model in fp32 and its architecture."""
    from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    architecture = read_architecture(folder)
    (model,) = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=TOKENS_BS.shape[1],
    )
    load_hf([model], folder=folder, architecture=architecture)
    return model, architecture


def exported(chunks: Any, *, architecture: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an export of what ``folder`` describes."""
    from megacpt.convert.folder_tensors import folder_tensors
    from megacpt.convert.in_memory import model_tensors

    tensors = folder_tensors(
        model_tensors(chunks, architecture=architecture),
        architecture=architecture,
        described_by=folder,
        dtype=None,
    )
    return {name: tensor.whole() for name, tensor in tensors.items()}
