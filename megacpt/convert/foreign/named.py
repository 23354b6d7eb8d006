# SPDX-License-Identifier: Apache-2.0
"""Tensors of a transformers model that lie in another format than its own folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from megacpt.checkpoint.stored.torch_file import Where
from megacpt.convert.sources import DTYPES, SourceModel, SourceTensor, own_tensors
from megacpt.errors import CheckpointError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.files import Stored
from megacpt.families.stored.nested import text_of
from megacpt.families.stored.places import StoredAs, hf_shapes, places_of, table_name
from megacpt.families.weights import Role

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, activation checkpointing and torch.compile put into names."""


class CopyTo(Protocol):
    """Fills ``out``, a tensor of that part's shape, with a part of a stored one."""

    def __call__(self, out: torch.Tensor, *, where: Where) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A stored tensor, whose values are where ``copy_to`` finds them."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    copy_to: CopyTo


def source_of(held: Mapping[str, Held], *, folder: Path, described_by: Path) -> SourceModel:
    """``held`` by the names they are stored under, with others beside the model's.

    Errors are those of a Hugging Face folder: they name the tensor that is missing, too many, or of
    another shape or type.
    """
    architecture = read_architecture(described_by)
    plain = {_unwrapped(name): tensor for name, tensor in held.items()}
    if text_of(HfConfig.read(described_by)) is None:
        of_model = _of_model(plain, architecture=architecture, folder=folder)
    else:
        # Where the text model lies among the other parts is told from all names.
        of_model = {n: t for n, t in plain.items() if "optim" not in n.partition(".")[0]}
    stored = {
        name: Stored(
            file=folder,
            dtype=_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")),
            shape=tensor.shape,
        )
        for name, tensor in of_model.items()
    }
    _require_plain(of_model, folder=folder)
    places = places_of(stored, folder=folder, described_by=described_by, architecture=architecture)
    tensors = {name: _tensor(of_model[p.part.name], place=p) for name, p in places.items()}
    return SourceModel(
        folder=folder,
        described_by=described_by,
        architecture=architecture,
        tensors=own_tensors(tensors, architecture=architecture, folder=folder),
    )


def _of_model(
    plain: Mapping[str, Held], *, architecture: Architecture, folder: Path
) -> dict[str, Held]:
    """By their names in the model. Whoever saved it may have put it beside an optimizer and other
    states, as the entry ``model`` or another."""
    head, table = (table_name(architecture, role=role) for role in (Role.head, Role.embedding))
    own_names = {head, *hf_shapes(architecture)}
    prefixes = sorted({n.removesuffix(table) for n in plain if f".{n}".endswith(f".{table}")})
    if not prefixes:
        # A model without a head has no "model." in front of its names.
        bare = table.removeprefix("model.")
        prefixes = sorted({n.removesuffix(bare) for n in plain if f".{n}".endswith(f".{bare}")})
        own_names |= {name.removeprefix("model.") for name in own_names}
    if len(prefixes) != 1:
        what = f"{len(prefixes)} models, {', '.join(prefixes)}" if prefixes else _instead(plain)
        raise CheckpointError(
            f"{folder} must hold one {architecture.family} model with a tensor {table}, but holds "
            f"{what}; name the checkpoint of the model, and with --base its Hugging Face folder."
        )
    inside = {
        name.removeprefix(prefixes[0]): tensor
        for name, tensor in plain.items()
        if name.startswith(prefixes[0])
    }
    roots = {name.partition(".")[0] for name in own_names}
    return {name: tensor for name, tensor in inside.items() if name.partition(".")[0] in roots}


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _instead(names: Mapping[str, Held]) -> str:
    if "tok_embeddings.weight" in names or "model.tok_embeddings.weight" in names:
        return (
            "torchtitan's own names and order of rotary values (convert it with torchtitan's "
            "scripts/checkpoint_conversion/convert_to_hf.py)"
        )
    shown = ", ".join(sorted(names)[:3]) or "no tensors"
    return f"{shown}{', ...' if len(names) > 3 else ''}"


def _require_plain(tensors: Mapping[str, Held], *, folder: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES and ".rotary_emb." not in name:
            raise CheckpointError(
                f"{name} in {folder} must be of type {', '.join(DTYPES)}, but is {tensor.dtype}; "
                "save the model unquantised."
            )


def _tensor(held: Held, *, place: StoredAs) -> SourceTensor:
    return SourceTensor(
        shape=place.shape, dtype=held.dtype, fill=partial(_fill, held=held, place=place)
    )


def _fill(out: torch.Tensor, *, first: int, held: Held, place: StoredAs) -> None:
    part = place.part
    last = first + len(out)
    rows = part.whole_groups(slice(first, last))
    where = part.where(place.shape, dim=0, span=rows)
    where = where or tuple(slice(0, size) for size in held.shape)
    sizes = [bounds.stop - bounds.start for bounds in where]
    if sizes == list(out.shape) and not part.transposed:
        held.copy_to(out, where=where)
        return
    block = torch.empty(sizes, dtype=held.dtype)
    held.copy_to(block, where=where)
    out.copy_(part.taken(block)[first - rows.start : last - rows.start])
