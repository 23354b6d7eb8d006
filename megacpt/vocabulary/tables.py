# SPDX-License-Identifier: Apache-2.0
"""The tables of a model's folder that have a row a token, and the folder with more rows in them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megacpt.convert.described import write_json
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.files import INDEX, read_stored
from megacpt.families.stored.nested import INNER
from megacpt.families.stored.places import StoredAs, find_places, table_name
from megacpt.families.weights import Role
from megacpt.text import text_size
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.folder import read_json
from megacpt.vocabulary.rows import Table
from megacpt.vocabulary.stored import NewRows, write_grown

SIZE = "vocab_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTables:
    """Of a folder whose tensors are all there."""

    folder: Path
    architecture: Architecture
    places: dict[str, StoredAs]
    files: tuple[Path, ...]
    """All that hold weights, some of them perhaps none of the text model's."""
    by_role: dict[Role, Table]
    """A tied head is the embedding."""

    @classmethod
    def read(cls, folder: Path, *, tokenizer: Tokenizer) -> ModelTables:
        architecture = read_architecture(folder)
        if tokenizer.vocab_size > architecture.vocab_size:
            raise ModelError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, but the model "
                f"{architecture.vocab_size} rows; use the tokenizer of this model."
            )
        places = find_places(folder, architecture=architecture)
        tied = architecture.tied_embeddings
        by_role = {}
        for role in (Role.embedding,) if tied else (Role.embedding, Role.head):
            place = places[table_name(architecture, role=role)]
            by_role[role] = Table(
                name=place.part.name, file=place.file, num_rows=architecture.vocab_size
            )
        files = sorted({stored.file for stored in read_stored(folder).values()})
        return cls(
            folder=folder,
            architecture=architecture,
            places=places,
            files=tuple(files),
            by_role=by_role,
        )

    def size(self, *, first: int, count: int) -> int:
        """Rows with ``count`` new ones from ``first`` on. Those that no token had, which pad many
        models, are used first."""
        return max(self.architecture.vocab_size, first + count)

    def require_room(self, output: Path, *, count: int) -> None:
        """At most: four bytes a new value."""
        rows = 2 * 4 * count * self.architecture.hidden_size
        needed = sum(file.stat().st_size for file in self.files) + rows
        there = next(path for path in output.absolute().parents if path.exists())
        free = shutil.disk_usage(there).free
        if needed > free:
            raise EnvironmentError_(
                f"{output} needs {text_size(needed)}, but {there} has {text_size(free)} free; "
                "choose another disk (--output FOLDER)."
            )

    def write(self, folder: Path, *, rows: Mapping[Role, torch.Tensor], first: int) -> None:
        """Weights, their index and config.json, with ``rows`` from ``first`` on."""
        grown = {
            name: NewRows(first=first, content=_content(rows[role]))
            for name, role in self._stored().items()
        }
        more_bytes = 0
        for file in self.files:
            target = folder / file.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            more_bytes += write_grown(file, target=target, rows=grown)
        if (self.folder / INDEX).exists():
            index = read_json(self.folder / INDEX)
            index.setdefault("metadata", {}).pop("total_parameters", None)
            index["metadata"]["total_size"] = index["metadata"].get("total_size", 0) + more_bytes
            write_json(folder / INDEX, content=index)
        size = self.size(first=first, count=len(rows[Role.embedding]))
        config = _with_size(HfConfig.read(self.folder).values, size=size)
        write_json(folder / "config.json", content=config)
        find_places(folder, architecture=read_architecture(folder))

    def _stored(self) -> dict[str, Role]:
        """Every stored tensor of such rows; a tied model may have both."""
        names = {}
        for role in (Role.embedding, Role.head):
            place = self.places.get(table_name(self.architecture, role=role))
            if place is not None:
                tied = self.architecture.tied_embeddings
                names[place.part.name] = Role.embedding if tied else role
        return names


def _with_size(config: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    """In a model of several parts it is the text's, and stands on top only where it did."""
    inner = config.get(INNER)
    if inner is None:
        return {**config, SIZE: size}
    on_top = {SIZE: size} if SIZE in config else {}
    return {**config, **on_top, INNER: {**inner, SIZE: size}}


def _content(rows_NH: torch.Tensor) -> bytes:
    """As safetensors stores them; NumPy has no bf16."""
    return rows_NH.contiguous().view(torch.uint8).numpy().tobytes()
