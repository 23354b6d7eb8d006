# SPDX-License-Identifier: Apache-2.0
"""Where a Hugging Face folder keeps each tensor of the model, and whether all of them are there.
Free of torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from megacpt.errors import ModelError
from megacpt.families import family_of, param_rows, table_row
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.files import Stored, has_weights, read_stored
from megacpt.families.stored.mxfp4 import TYPE as FOUR_BITS
from megacpt.families.stored.mxfp4 import in_four_bits, stored_shapes
from megacpt.families.stored.naming import BASE, Naming, is_beside, naming_of
from megacpt.families.stored.nested import text_of
from megacpt.families.weights import Part, Role
from megacpt.text import count, listed

FLOATING = ("F32", "BF16", "F16", "F64")
WITHOUT_HEAD = Naming(base="")
"""Where transformers' base model was saved, without a head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAs:
    """A tensor of the model: in which file, as all or part of which stored tensor."""

    file: Path
    part: Part
    shape: tuple[int, ...]
    scales_file: Path | None = None
    """Of a part in four-bit numbers."""


def hf_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every Hugging Face tensor of the whole model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in param_rows(architecture):
        layers = row.layers(architecture) if row.per_layer else (None,)
        mixture = architecture.experts if row.per_expert else None
        experts = range(mixture.num) if mixture else (None,)
        for layer, expert, source in product(layers, experts, row.sources):
            name = source.name.format(layer=layer, expert=expert)
            shapes[name] = source.shape(architecture)
    return shapes


def frozen_names(architecture: Architecture) -> set[str]:
    """Those of the tensors that no training changes and every folder holds in float32."""
    return {
        source.name.format(layer=layer)
        for row in param_rows(architecture)
        if row.frozen
        for layer, source in product(row.layers(architecture), row.sources)
    }


def table_name(architecture: Architecture, *, role: Role) -> str:
    """The Hugging Face name of the embedding or the head, which a tied model need not store."""
    return table_row(architecture, role=role).sources[0].name


def find_places(folder: Path, *, architecture: Architecture) -> dict[str, StoredAs]:
    """Every tensor of the model, and a tied head that is stored beside the embedding.

    One too few, one too many, one of another shape or of no floating type would change the model
    silently: ModelError names it and says what is the matter.
    """
    stored = read_stored(folder)
    return places_of(stored, folder=folder, described_by=folder, architecture=architecture)


def places_of(
    stored: Mapping[str, Stored], *, folder: Path, described_by: Path, architecture: Architecture
) -> dict[str, StoredAs]:
    """The same where it is known what ``folder`` stores, in safetensors or otherwise.

    ``described_by``: the folder with config.json.
    """
    shapes = hf_shapes(architecture)
    head = table_name(architecture, role=Role.head)
    embedding = table_name(architecture, role=Role.embedding)
    beside = _beside(described_by, architecture=architecture, stored=stored)
    if {beside.naming.stored(name) for name in (head, embedding)} <= stored.keys():
        shapes.setdefault(head, shapes[embedding])
    parts = _parts(shapes, architecture=architecture, stored=stored, naming=beside.naming)
    names = _Names(folder=folder, shapes=shapes, stored=stored, parts=parts, beside=beside)
    if not architecture.tied_embeddings and head not in parts:
        names.require_head(head)
    names.require_all()
    for part in parts.values():
        _require_fit(part, stored=stored, folder=folder)
    return {
        name: StoredAs(
            file=stored[part.name].file,
            part=part,
            shape=shapes[name],
            scales_file=stored[part.scales].file if part.scales else None,
        )
        for name, part in parts.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """How the model lies among others in its folder."""

    naming: Naming
    tensors: Mapping[str, Stored]
    """Those that are not the model's: they are not trained, and an export holds them as they are.
    """


def beside_of(folder: Path, *, architecture: Architecture) -> Neighbours:
    """Nothing is beside the model in a folder without weights; one of several parts needs them."""
    if has_weights(folder):
        return _beside(folder, architecture=architecture, stored=read_stored(folder))
    require_parts(folder)
    return Neighbours(naming=Naming(), tensors={})


def require_parts(folder: Path) -> None:
    """Refuse a model of several parts without weights: only that of the text could be exported."""
    config = HfConfig.read(folder)
    if text_of(config) is not None and not has_weights(folder):
        raise ModelError(
            f"{folder} has no weights, but its model_type {config.values['model_type']} has other "
            "parts than text, which an export takes from there; use the folder with its weights."
        )


def _beside(
    folder: Path, *, architecture: Architecture, stored: Mapping[str, Stored]
) -> Neighbours:
    config = HfConfig.read(folder)
    naming = naming_of(config, names=hf_shapes(architecture), stored=stored)
    tensors = {
        name: found
        for name, found in stored.items()
        if is_beside(name, config=config, naming=naming, num_layers=architecture.num_layers)
    }
    return Neighbours(naming=naming, tensors=tensors)


def storage_notes(folder: Path, *, architecture: Architecture) -> Iterator[str]:
    """What of the folder's weights is odd and harmless; ModelError where they do not fit.

    A folder without weights is not looked at: whoever reads them says so.
    """
    if not has_weights(folder):
        return
    places = find_places(folder, architecture=architecture)
    if tensors := beside_of(folder, architecture=architecture).tensors:
        values = sum(math.prod(tensor.shape) for tensor in tensors.values())
        yield (
            f"{count(values)} values in {folder} are beside the text model "
            f"(tensors: {_groups(tensors)}): not trained, the export holds them as they are."
        )
    if coded := num_four_bits(places):
        yield (
            f"{count(coded)} values in {folder} are four-bit numbers (MXFP4): they are trained as "
            "the bf16 numbers that transformers makes of them; the export holds plain numbers "
            "too, and leaves quantization_config out."
        )
    elif stated := HfConfig.read(folder).quantisation():
        yield (
            f"{folder / 'config.json'} states {stated}, but the weights are plain numbers: they "
            "are trained as they are, and the export leaves the key out."
        )


def num_four_bits(places: Mapping[str, StoredAs]) -> int:
    """Values of the model that its folder holds as such numbers."""
    return sum(math.prod(place.shape) for place in places.values() if place.part.scales)


def _groups(names: Iterable[str]) -> str:
    """The parts of a model that tensors are in, each with the number of its tensors."""
    inside = (name.removeprefix(BASE).split(".") for name in names)
    groups = Counter(".".join(part[: 2 if part[0] == "layers" else 1]) for part in inside)
    return listed(f"{number} of {group}" for group, number in groups.items())


def _parts(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    architecture: Architecture,
    stored: Mapping[str, Stored],
    naming: Naming,
) -> dict[str, Part]:
    """For each tensor the stored one that it is, or is a part of; left out where there is none."""
    elsewhere = dict(family_of(architecture).parts(architecture))
    if architecture.tied_embeddings:
        embedding = table_name(architecture, role=Role.embedding)
        head = table_name(architecture, role=Role.head)
        elsewhere[embedding] = Part(name=head, shape=shapes[embedding])
    namings = (naming, WITHOUT_HEAD) if naming == Naming() else (naming,)
    found = {}
    for name, shape in shapes.items():
        candidates = [Part(name=name, shape=shape), *filter(None, [elsewhere.get(name)])]
        candidates += [coded for part in candidates for coded in in_four_bits(part)]
        candidates = [_called(part, naming=n) for n in namings for part in candidates]
        match = next((part for part in candidates if part.name in stored), None)
        if match is not None:
            found[name] = match
    return found


def _called(part: Part, *, naming: Naming) -> Part:
    scales = part.scales and naming.stored(part.scales)
    return replace(part, name=naming.stored(part.name), scales=scales)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Those that the config asks for beside those that are stored."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    stored: Mapping[str, Stored]
    parts: Mapping[str, Part]
    beside: Neighbours

    def require_head(self, head: str) -> None:
        """An untied head that is not stored: transformers would draw it at random."""
        if all(name in self.parts for name in self.shapes if name != head):
            raise ModelError(
                f"{self.folder} has no tensor {head}, which its config.json asks for: "
                "tie_word_embeddings is false or not stated; set it to true there if the model "
                "is tied, or save it again with its head (AutoModelForCausalLM)."
            )

    def require_all(self) -> None:
        missing = [name for name in self.shapes if name not in self.parts]
        held = {name for part in self.parts.values() for name in (part.name, part.scales)}
        used = held | self.beside.tensors.keys()
        extra = [n for n in self.stored if n not in used and ".rotary_emb." not in f".{n}"]
        if missing:
            raise ModelError(
                f"{self.folder} has no tensor {missing[0]}{_others(missing)}, which its "
                f"config.json asks for; {self._why(missing, extra=extra)}."
            )
        if extra:
            raise ModelError(
                f"{self.folder} has a tensor {extra[0]}{_others(extra)} that its config.json "
                "gives no place; use the config.json of this model."
            )

    def _why(self, missing: Sequence[str], *, extra: Sequence[str]) -> str:
        coded = [name for name in extra if self.stored[name].dtype not in FLOATING]
        if coded:
            return (
                f"its weights are quantised ({coded[0]} is of type {self.stored[coded[0]].dtype}"
                f"{_stated(self.folder)}), use the unquantised model"
            )
        if any(".lora_" in name for name in extra):
            return f"it holds an adapter ({extra[0]}), merge it into its model with peft first"
        renamed = [name for name in extra if name.endswith(missing[0])]
        if renamed:
            return (
                f"it is there as {renamed[0]}, save the model itself and not what wraps it "
                "(save_pretrained)"
            )
        asked, held = _layers(self.shapes, naming=Naming()), self._num_stored_layers()
        if asked != held:
            return (
                f"num_hidden_layers is {asked} there and {held} in the weights, "
                "use the config.json and all the files of one model"
            )
        return "download the model again, or use the config.json of this model"

    def _num_stored_layers(self) -> int:
        names = self.stored.keys() - self.beside.tensors.keys()
        return _layers(names, naming=self.beside.naming) or _layers(names, naming=WITHOUT_HEAD)


def _layers(names: Iterable[str], *, naming: Naming) -> int:
    return len({naming.layer(name) for name in names} - {None})


def _require_fit(part: Part, *, stored: Mapping[str, Stored], folder: Path) -> None:
    types = FLOATING if part.scales is None else (FOUR_BITS,)
    for name, shape in stored_shapes(part).items():
        found = stored.get(name)
        if found is None:
            raise ModelError(
                f"{folder} has no tensor {name}, without which {part.name} cannot be read; "
                "download the model again."
            )
        _require_type(name, found=found, types=types, folder=folder)
        if found.shape != shape:
            raise ModelError(
                f"{name} in {found.file} must have shape {list(shape)}, which config.json states, "
                f"but has {list(found.shape)}; use the config.json of this model."
            )


def _require_type(name: str, *, found: Stored, types: Sequence[str], folder: Path) -> None:
    if found.dtype in types:
        return
    wanted = "F32, BF16 or F16" if types == FLOATING else listed(types)
    raise ModelError(
        f"{name} in {found.file} must be of type {wanted}, but is {found.dtype}{_stated(folder)}; "
        "use the unquantised model."
    )


def _stated(folder: Path) -> str:
    stated = HfConfig.read(folder).quantisation()
    return f", as config.json says: {stated}" if stated else ""


def _others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
