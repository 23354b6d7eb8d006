# SPDX-License-Identifier: Apache-2.0
"""An adapter as PEFT's folder holds it: ``adapter_config.json`` and the tensors beside it.

PEFT only warns of a tensor that is missing or has no place, so that all names are made of the
model's own rows here, and none is left to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from megacpt.convert.adapters.live import Live
from megacpt.convert.adapters.places import PREFIX, PeftPlace, places, rows_of
from megacpt.convert.adapters.plain import computed_whole
from megacpt.convert.sources import SourceModel, SourceTensor
from megacpt.errors import ModelError
from megacpt.families.adapter import MAGNITUDE, A, B, factor_name
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.stored.places import table_name
from megacpt.families.weights import Role
from megacpt.text import listed

TENSORS = "adapter_model.safetensors"
_KEPT_PAIRS = 8
"""In memory at once, of whole places."""


def folder_settings(source: SourceModel, *, live: Live, base_model: str | None) -> dict[str, Any]:
    """What ``adapter_config.json`` says of an adapter that is LoRA or DoRA."""
    architecture = source.architecture
    adapter = architecture.adapter
    assert adapter is not None
    found = places(architecture, live=live)
    _require_possible(found, adapter=adapter, architecture=architecture)
    modules = [place.name for place in found if not place.as_parameter]
    parameters = [_parameter(place) for place in found if place.as_parameter]
    saved = [name.rpartition(".")[0] for name in tables(architecture, live=live)]
    # What a reader of an older PEFT does not know is stated where it is needed.
    beside: dict[str, Any] = {}
    if parameters:
        beside["target_parameters"] = _shortest(parameters, among=live.shapes, num=3)
    if saved and architecture.tied_embeddings:
        beside["ensure_weight_tying"] = True
        saved = saved[:1]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": _number(adapter.alpha),
        "lora_dropout": 0.0 if parameters else adapter.dropout,
        "use_rslora": adapter.rank_stabilised,
        "use_dora": adapter.has_magnitudes,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": _shortest(modules, among=live.shapes, num=1, ending=".weight"),
        "modules_to_save": saved or None,
        **beside,
        **_patterns(found, adapter=adapter),
    }


def folder_tensors_of(source: SourceModel, *, live: Live) -> dict[str, SourceTensor]:
    """By PEFT's names; float32 but for what was trained whole, which keeps its type."""
    found: dict[str, SourceTensor] = {}
    for place in places(source.architecture, live=live):
        found |= dict(_tensors(place, source=source))
    for name, own in tables(source.architecture, live=live).items():
        found[f"{PREFIX}{name}"] = source.tensors[own]
    return found


def tables(architecture: Architecture, *, live: Live) -> dict[str, str]:
    """Embedding and head as transformers calls them, where they are trained; PEFT asks for a tied
    head as well, which is the embedding."""
    adapter = architecture.adapter
    assert adapter is not None
    own = {role: table_name(architecture, role=role) for role in (Role.embedding, Role.head)}
    found = {}
    if adapter.embedding:
        found[live.naming.stored(own[Role.embedding])] = own[Role.embedding]
    if adapter.head:
        found[live.naming.stored(own[Role.head])] = own[Role.head]
    if adapter.embedding and architecture.tied_embeddings:
        found[live.naming.stored(own[Role.head])] = own[Role.embedding]
    return found


def _tensors(place: PeftPlace, *, source: SourceModel) -> Iterator[tuple[str, SourceTensor]]:
    adapter = source.architecture.adapter
    assert adapter is not None
    rank, experts = adapter.rank * place.modules, place.experts or 1
    inputs = place.held[0][0].shape[1]

    @lru_cache(maxsize=_KEPT_PAIRS)
    def factors() -> tuple[torch.Tensor, torch.Tensor]:
        return _factors(place, tensors=source.tensors, rank=adapter.rank)

    ins, outs = (place.outputs, inputs) if place.turned else (inputs, place.outputs)
    yield (
        f"{place.key}.lora_A.weight",
        computed_whole((experts * rank, ins), whole=lambda: factors()[0]),
    )
    yield (
        f"{place.key}.lora_B.weight",
        computed_whole((outs, rank * experts), whole=lambda: factors()[1]),
    )
    if adapter.has_magnitudes:
        yield (
            f"{place.key}.lora_magnitude_vector",
            computed_whole((place.outputs,), whole=lambda: _sizes(place, tensors=source.tensors)),
        )


def _factors(
    place: PeftPlace, *, tensors: Mapping[str, SourceTensor], rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    experts, whole = place.experts or 1, rank * place.modules
    a_ERI = torch.zeros(experts, whole, place.held[0][0].shape[1])
    b_EOR = torch.zeros(experts, place.outputs, whole)
    for each, part in place.held:
        leg = place.leg(each)
        own = slice(leg * rank, (leg + 1) * rank)
        a_ERI[part.index or 0, own] = tensors[factor_name(each.module, factor=A)].whole().float()
        rows = rows_of(part, num=each.shape[0])
        b_EOR[part.index or 0, rows, own] = (
            tensors[factor_name(each.weight, factor=B)].whole().float()
        )
    if place.turned:
        a_ERI, b_EOR = b_EOR.transpose(1, 2), a_ERI.transpose(1, 2)
    return a_ERI.flatten(0, 1), b_EOR.permute(1, 2, 0).flatten(1)


def _sizes(place: PeftPlace, *, tensors: Mapping[str, SourceTensor]) -> torch.Tensor:
    sizes_O = torch.zeros(place.outputs)
    for each, part in place.held:
        sizes = tensors[factor_name(each.weight, factor=MAGNITUDE)]
        sizes_O[rows_of(part, num=each.shape[0])] = sizes.whole().float()
    return sizes_O


def _require_possible(
    found: Sequence[PeftPlace], *, adapter: Adapter, architecture: Architecture
) -> None:
    named = [place.name for place in found if place.as_parameter]
    if adapter.has_magnitudes and named:
        raise ModelError(
            f"adapter.method=dora on {named[0]}: PEFT has no DoRA on parameters, by which it finds "
            f"the experts of a {architecture.family} model; write a whole model with megacpt merge."
        )


def _parameter(place: PeftPlace) -> str:
    return place.name if place.experts is not None else f"{place.name}.weight"


def _patterns(found: Iterable[PeftPlace], *, adapter: Adapter) -> dict[str, Any]:
    """Those whose rank is a sum; the scale is that of all others."""
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for place in found:
        if (times := place.modules) > 1:
            name = _last(place.name, num=2)
            ranks[name] = adapter.rank * times
            grows = times**0.5 if adapter.rank_stabilised else times
            alphas[name] = _number(adapter.alpha * grows)
    return {"rank_pattern": ranks, "alpha_pattern": alphas}


def _shortest(
    names: Sequence[str], *, among: Iterable[str], num: int, ending: str = ""
) -> list[str]:
    """Ends of the names, of so many parts, where they match these and nothing else in a model."""
    by_end: dict[str, set[str]] = {}
    for name in names:
        by_end.setdefault(_last(name, num=num), set()).add(f"{name}{ending}")
    every = list(among)
    found: list[str] = []
    for end, wanted in by_end.items():
        matched = {name for name in every if f".{name}".endswith(f".{end}{ending}")}
        found += [end] if matched == wanted else sorted(n.removesuffix(ending) for n in wanted)
    return found


def _last(name: str, *, num: int) -> str:
    return ".".join(name.split(".")[-num:])


def _number(value: float) -> float:
    """Whole numbers as PEFT writes them."""
    return int(value) if float(value).is_integer() else value


def require_names(found: Iterable[str], *, wanted: Iterable[str], what: str) -> None:
    """``ModelError`` names the tensors that are missing or too many."""
    held, asked = set(found), set(wanted)
    for names, problem in ((asked - held, "lacks"), (held - asked, "has no place for")):
        if names:
            raise ModelError(f"{what} {problem} {listed(sorted(names)[:3])}; write it again.")
