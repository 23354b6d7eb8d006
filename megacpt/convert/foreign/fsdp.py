# SPDX-License-Identifier: Apache-2.0
"""Folders of torch.distributed.checkpoint with a transformers model in them, as FSDP saves it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from megacpt.checkpoint.stored.dcp import DcpFolder
from megacpt.convert.foreign.named import Held, source_of
from megacpt.convert.sources import SourceModel


def fsdp(folder: DcpFolder, *, described_by: Path) -> SourceModel:
    held = {
        name: Held(
            shape=tensor.shape, dtype=tensor.dtype, copy_to=partial(folder.copy_to, name=name)
        )
        for name, tensor in folder.tensors.items()
    }
    source = source_of(held, folder=folder.folder, described_by=described_by)
    folder.require_files(held)
    return source
