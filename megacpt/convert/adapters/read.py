# SPDX-License-Identifier: Apache-2.0
"""PEFT's folder as an adapter of a model: LoRA, rsLoRA or DoRA, on linear layers and on experts.

Every tensor is used, none is missing, and what has another meaning than these is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from megacpt.convert.adapters.folder import TENSORS, tables
from megacpt.convert.adapters.live import Live, live_model
from megacpt.convert.adapters.places import PREFIX, PeftPlace, places, rows_of
from megacpt.convert.adapters.plain import in_memory
from megacpt.convert.sources import SourceModel, SourceTensor
from megacpt.errors import ModelError
from megacpt.families import read_architecture
from megacpt.families.adapter import MAGNITUDE, A, B, factor_name, linear_modules
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.peft_settings import PEFT_SETTINGS, stated_method, stated_settings


def peft_folder(folder: Path, *, base: Path) -> SourceModel:
    """``ModelError`` names what of it does not fit the model in ``base``, or cannot be read."""
    settings = stated_settings(folder)
    held = _tensors(folder)
    bare = read_architecture(base)
    stated = stated_method(settings, folder=folder)
    dropout = float(settings.get("lora_dropout") or 0.0)
    every = replace(bare, adapter=_everywhere(stated, dropout=dropout, architecture=bare))
    live = live_model(base, architecture=every)
    found = _Found(folder=folder, settings=settings, held=held, live=live)
    architecture = replace(bare, adapter=found.adapter(every))
    tensors = dict(found.tensors(architecture))
    if left := sorted(held.keys() - found.used(architecture)):
        raise ModelError(
            f"{folder / TENSORS} has {left[0]}, which has no place in {base}; use the model that "
            "it was trained beside, or merge it with peft (merge_and_unload)."
        )
    return SourceModel(folder=folder, described_by=base, architecture=architecture, tensors=tensors)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / TENSORS
    try:
        held: dict[str, torch.Tensor] = load_file(path)
        return held
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); save the adapter with save_pretrained, which "
            "writes safetensors."
        ) from error


def _everywhere(
    stated: Mapping[str, Any], *, dropout: float, architecture: Architecture
) -> Adapter:
    """On all modules of all layers."""
    return Adapter(
        **stated,
        dropout=dropout,
        modules=tuple(linear_modules(architecture)),
        layers=tuple(range(architecture.num_layers)),
        embedding=True,
        head=not architecture.tied_embeddings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Of all experts of a place; its change is the scale times B A."""

    a_ERI: torch.Tensor
    b_EOR: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a folder holds beside what it says."""

    folder: Path
    settings: Mapping[str, Any]
    held: Mapping[str, torch.Tensor]
    live: Live

    def adapter(self, every: Architecture) -> Adapter:
        """On the modules and layers that have tensors."""
        adapter = every.adapter
        assert adapter is not None
        there = {
            each.module
            for place in places(every, live=self.live)
            if self._is_there(place)
            for each, _ in place.held
        }
        own = tables(every, live=self.live)
        saved = {name for key, name in own.items() if f"{PREFIX}{key}" in self.held}
        embedding, *head = dict.fromkeys(own.values())  # A tied head has the embedding's name.
        modules, layers = self._grid(there, architecture=every)
        return replace(
            adapter,
            modules=modules,
            layers=layers,
            embedding=embedding in saved,
            head=bool(saved.intersection(head)),
        )

    def _is_there(self, place: PeftPlace) -> bool:
        if place.experts is None:
            return f"{place.key}.lora_A.weight" in self.held
        asked = self.settings.get("target_parameters") or ()
        return any(f".{place.name}".endswith(f".{end}") for end in asked)

    def _grid(
        self, there: Collection[str], *, architecture: Architecture
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Modules, and the layers that all of them have an update in."""
        num = architecture.experts.num if architecture.experts else 1
        modules, found = [], set()
        names = linear_modules(architecture)
        for name, layers in names.items():
            experts = range(num) if "{expert}" in name else (0,)
            own = {
                layer
                for layer, expert in product(layers, experts)
                if name.format(layer=layer, expert=expert) in there
            }
            if own:
                modules.append(name)
                found |= own
        for name in modules:
            wanted = {name.format(layer=n, expert=0) for n in found.intersection(names[name])}
            if missing := sorted(wanted - set(there)):
                raise ModelError(
                    f"{self.folder} adapts {name} in some layers, but not {missing[0]}, while "
                    "others are adapted there; merge it with peft (merge_and_unload)."
                )
        if not modules:
            raise ModelError(
                f"{self.folder / TENSORS} has no tensor of a linear layer of this "
                f"{architecture.family} model; use the model that it was trained beside."
            )
        return tuple(modules), tuple(sorted(found))

    def used(self, architecture: Architecture) -> set[str]:
        own = tables(architecture, live=self.live)
        return {
            *(name for place in places(architecture, live=self.live) for name in _names(place)),
            *(f"{PREFIX}{name}" for name in own),
        }

    def tensors(self, architecture: Architecture) -> Iterator[tuple[str, SourceTensor]]:
        """By the names of their rows."""
        for place in places(architecture, live=self.live):
            yield from self._of_place(place, architecture=architecture)
        known: dict[str, torch.Tensor] = {}
        for key, name in tables(architecture, live=self.live).items():
            table = self._tensor(f"{PREFIX}{key}")
            if not torch.equal(known.setdefault(name, table), table):
                raise ModelError(
                    f"{PREFIX}{key} in {self.folder / TENSORS} must equal the embedding, because "
                    "the model is tied, but differs; set tie_word_embeddings to false in a copy "
                    "of the model."
                )
        if len(known) > 1 and torch.equal(*known.values()):
            raise ModelError(
                f"{self.folder / TENSORS} has one table for embedding and head, which are two in "
                "this model; use the tied model that it was trained beside."
            )
        yield from ((name, in_memory(table)) for name, table in known.items())

    def _of_place(
        self, place: PeftPlace, *, architecture: Architecture
    ) -> Iterator[tuple[str, SourceTensor]]:
        adapter = architecture.adapter
        assert adapter is not None
        pair = self._pair(place)
        share = self._scale(place, rank=pair.a_ERI.shape[1]) / adapter.scale
        for each, part in place.held:
            expert, rows = part.index or 0, rows_of(part, num=each.shape[0])
            own = _columns(place, leg=place.leg(each), pair=pair, rank=adapter.rank)
            yield factor_name(each.module, factor=A), in_memory(pair.a_ERI[expert, own])
            yield (
                factor_name(each.weight, factor=B),
                in_memory(pair.b_EOR[expert, rows, own] * share),
            )
            if adapter.has_magnitudes:
                sizes = self._tensor(f"{place.key}.lora_magnitude_vector")
                yield factor_name(each.weight, factor=MAGNITUDE), in_memory(sizes[rows])

    def _pair(self, place: PeftPlace) -> _Pair:
        a, b = (self._tensor(f"{place.key}.lora_{factor}.weight").float() for factor in "AB")
        experts, inputs = place.experts or 1, place.held[0][0].shape[1]
        ins, outs = (place.outputs, inputs) if place.turned else (inputs, place.outputs)
        rank = a.shape[0] // experts
        if a.shape != (experts * rank, ins) or b.shape != (outs, rank * experts) or not rank:
            raise ModelError(
                f"{place.key}.lora_A.weight and lora_B.weight in {self.folder} have shapes "
                f"{list(a.shape)} and {list(b.shape)}, which do not fit {place.name}; use the "
                "model that it was trained beside."
            )
        a_ERI = a.view(experts, rank, ins)
        b_EOR = b.view(outs, rank, experts).permute(2, 0, 1)
        if place.turned:
            a_ERI, b_EOR = b_EOR.transpose(1, 2), a_ERI.transpose(1, 2)
        return _Pair(a_ERI=a_ERI, b_EOR=b_EOR)

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self.held:
            raise ModelError(
                f"{self.folder / TENSORS} lacks {name}, which {PEFT_SETTINGS} asks for; save it "
                "again."
            )
        return self.held[name]

    def _scale(self, place: PeftPlace, *, rank: int) -> float:
        patterns: Mapping[str, float] = self.settings.get("alpha_pattern") or {}
        name = place.name if place.experts or not place.as_parameter else f"{place.name}.weight"
        own = (a for p, a in patterns.items() if re.match(rf"(.*\.)?({p})$", name))
        alpha = float(next(own, self.settings["lora_alpha"]))
        return alpha / (rank**0.5 if self.settings.get("use_rslora") else rank)


def _columns(place: PeftPlace, *, leg: int, pair: _Pair, rank: int) -> slice:
    """Those of one of several modules, where the others have none of its rows; else all."""
    if pair.a_ERI.shape[1] != rank * place.modules or place.modules == 1:
        return slice(None)
    columns = slice(leg * rank, (leg + 1) * rank)
    for each, part in place.held:
        if place.leg(each) == leg:
            rows = pair.b_EOR[part.index or 0, rows_of(part, num=each.shape[0])]
            if torch.count_nonzero(rows) != torch.count_nonzero(rows[:, columns]):
                return slice(None)
    return columns


def _names(place: PeftPlace) -> tuple[str, ...]:
    return tuple(
        f"{place.key}.{end}" for end in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    )
