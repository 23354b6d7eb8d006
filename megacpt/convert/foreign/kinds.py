# SPDX-License-Identifier: Apache-2.0
"""Which other trainer's checkpoint a path names, and which model it is of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from megacpt.checkpoint.stored.dcp import METADATA, DcpFolder
from megacpt.convert.foreign.deepspeed import MODEL_STATES, deepspeed
from megacpt.convert.foreign.fsdp import fsdp
from megacpt.convert.foreign.megatron import megatron
from megacpt.convert.foreign.stated import BRIDGE
from megacpt.convert.sources import SourceModel
from megacpt.errors import CheckpointError

KINDS = "Megatron-LM or Megatron-Bridge (torch_dist), DeepSpeed ZeRO, FSDP (DCP)"
_LATEST_OF_MEGATRON, _LATEST_OF_DEEPSPEED = "latest_checkpointed_iteration.txt", "latest"
_FSDP_OF_ACCELERATE = "pytorch_model_fsdp_*"
_LEGACY = "mp_rank_*/model_optim_rng.pt"
_MEGATRON_S_OWN = "metadata.json"
"""Which of its formats it is: torch_dist, where torch's index is there as well."""


def foreign_source(path: Path, *, base: Path | None) -> SourceModel | None:
    """``None`` where it is no such checkpoint. ``base``: the Hugging Face folder that describes the
    model, where the checkpoint does not hold its config.json."""
    folder = next(filter(_is_checkpoint, _places(path)), None)
    if folder is None:
        return None
    if any(folder.glob(_LEGACY)):
        raise CheckpointError(
            f"{folder} is of Megatron-LM's old format (mp_rank_*/model_optim_rng.pt), which is "
            "not read; save it with --ckpt-format torch_dist (--ckpt-convert-format)."
        )
    described_by = base or _description(path, folder=folder)
    if any(folder.glob(MODEL_STATES)):
        return deepspeed(folder, described_by=described_by)
    index = DcpFolder.open(folder)
    is_megatron = (folder / _MEGATRON_S_OWN).is_file()
    return (megatron if is_megatron else fsdp)(index, described_by=described_by)


def _is_checkpoint(folder: Path) -> bool:
    return (folder / METADATA).is_file() or any(
        any(folder.glob(pattern)) for pattern in (MODEL_STATES, _LEGACY)
    )


def _places(path: Path) -> Iterator[Path]:
    """The folder itself, and those that a folder of several checkpoints points to."""
    yield path
    if (name := _content(path / _LATEST_OF_MEGATRON)) is not None:
        yield path / (f"iter_{int(name):07d}" if name.isdecimal() else name)
    if (name := _content(path / _LATEST_OF_DEEPSPEED)) is not None:
        yield path / name
    yield from sorted(path.glob(_FSDP_OF_ACCELERATE))


def _content(path: Path) -> str | None:
    """The name of a folder that a small file holds."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        name = file.read(256).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[\w.+-]+", name) or name in (".", ".."):
        raise CheckpointError(f"{path} must hold the name of a folder; name that folder itself.")
    return name


def _description(path: Path, *, folder: Path) -> Path:
    for place in (folder, path, folder.parent):
        if (place / "config.json").is_file():
            return place
    stated = _stated_by_bridge(folder)
    if stated is not None and (Path(stated) / "config.json").is_file():
        return Path(stated)
    where = f" ({BRIDGE} names {stated}, which is not there)" if stated else ""
    raise CheckpointError(
        f"{folder} does not say which model it is of{where}; name the Hugging Face folder with its "
        "config.json and tokenizer with --base FOLDER."
    )


def _stated_by_bridge(folder: Path) -> str | None:
    path = folder / BRIDGE
    if not path.is_file():
        return None
    found = re.search(r"^\s+hf_model_id: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip("'\"") if found and found[1] != "null" else None
