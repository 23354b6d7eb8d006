# SPDX-License-Identifier: Apache-2.0
"""Why a ``model_type`` cannot be trained: what a known one would need, or which family an unknown
one is nearest to, and each key and tensor in which it differs. Free of torch.

A family's reader tells by itself which keys it reads: those that change what it finds, or that it
refuses, when they hold something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import STORAGE_KEYS, HfConfig
from megacpt.families.stored.files import stored_names
from megacpt.families.stored.naming import BASE, HEAD
from megacpt.families.stored.nested import INNER, stated_text

if TYPE_CHECKING:
    from megacpt.families import Family

_MAMBA = "Mamba layers"
_GEMMA4 = (
    "embeddings of each layer, keys and values that layers share, and head sizes of each layer"
)
MISSING: Mapping[str, str] = {
    "aya_vision": "a model to compare with: transformers leaves its logit_scale out",
    "bamba": _MAMBA,
    "bloom": "ALiBi, a bias of attention scores in place of rotary positions",
    "falcon_h1": "Mamba beside attention in every layer",
    "falcon_mamba": _MAMBA,
    "gemma3n": _GEMMA4,
    "gemma3n_text": _GEMMA4,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "gpt2": "learned positions",
    "granitemoehybrid": _MAMBA,
    "jamba": _MAMBA,
    "lfm2": "gated short convolutions in place of attention",
    "lfm2_moe": "gated short convolutions in place of attention",
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "mllama": "layers that look at images from within the text model",
    "nemotron_h": _MAMBA,
    "recurrent_gemma": "linear recurrent units in place of attention",
    "rwkv": "recurrence in place of attention",
    "t5": "an encoder; only decoders are trained",
    "zamba2": _MAMBA,
}
"""What megacpt lacks for models that people ask for."""
_OF_NO_FAMILY = {
    *STORAGE_KEYS,
    *("architectures", "attention_dropout", "auto_map", "dtype", "hidden_dropout", "model_type"),
    *("pretraining_tp", "torch_dtype", "transformers_version", "use_cache", INNER),
}
"""Keys that say nothing of what a model computes in training."""
_SHOWN = 8
_NOWHERE = Path("config.json")
_EMBEDDING = "embed_tokens.weight"
_UNREADABLE = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError)
"""What a reader may end with on a value of no type that it expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDifference:
    """An unknown model beside a family."""

    family: str
    refused: tuple[str, ...] = ()
    """Why, for each key of config.json that the family knows and does not take."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json that the family does not read."""
    extra: tuple[str, ...] = ()
    """Stored tensors that the family has no place for, ``*`` for numbers."""
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(map(len, (self.refused, self.unknown, self.extra, self.missing)))

    def lines(self) -> Iterator[str]:
        yield from (f"config.json: {why}" for why in self.refused)
        for key, value in self.unknown.items():
            yield f"config.json: {key}={_short(value)} is not read"
        yield from (f"weights: {name} has no place" for name in self.extra)
        yield from (f"weights: {name} is not there" for name in self.missing)


def unknown_family(config: HfConfig, *, families: Mapping[str, Family]) -> ModelError:
    """The error for a model whose ``model_type`` is none of ``families``."""
    known = ", ".join(sorted(families))
    model_type = config.values.get("model_type")
    stated = f"{config.path}: model_type must be one of {known}, but is {model_type!r}"
    if lacking := MISSING.get(str(model_type)):
        return ModelError(f"{stated}, for which megacpt lacks {lacking}; use a model of these.")
    found = nearest(config, families=families)
    if found is None:
        return ModelError(f"{stated}; use a model of these families.")
    lines = list(found.lines())
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    shown = "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])
    same = "none of them differs, which does not say that it computes the same."
    return ModelError(
        f"{stated}. Nearest to it is {found.family}, by the keys of config.json and the names of "
        f"tensors; {'what differs:' if lines else same}{shown}\n"
        "Use a model of these families, or add its own (docs/models.md)."
    )


def nearest(config: HfConfig, *, families: Mapping[str, Family]) -> FamilyDifference | None:
    """The family with the fewest differences; of several Llama, then by name."""
    names = _stored_patterns(config)
    found = [
        difference
        for name, family in families.items()
        if (difference := _compare(config, name=name, family=family, stored=names)) is not None
    ]
    return min(found, key=lambda d: (d.size, d.family != "llama", d.family), default=None)


def _compare(
    config: HfConfig, *, name: str, family: Family, stored: set[str] | None
) -> FamilyDifference | None:
    """``None``: config.json lacks what the family cannot do without."""
    values, refused = dict(stated_text(config)), []
    while isinstance(outcome := _outcome(values, family=family), str):
        culprit = _culprit(values, family=family, outcome=outcome)
        if culprit is None:
            return None
        refused.append(outcome.partition(": ")[2].rpartition(";")[0])
        del values[culprit]
    wanted = set(_wanted(family, architecture=outcome, stored=stored or ()))
    return FamilyDifference(
        family=name,
        refused=tuple(refused),
        unknown=dict(_unread(values, family=family, outcome=outcome)),
        extra=() if stored is None else tuple(sorted(stored - wanted)),
        missing=() if stored is None else tuple(sorted(wanted - stored)),
    )


def _outcome(values: Mapping[str, Any], *, family: Family) -> Architecture | str:
    """What a family reads of a config.json, or how it fails."""
    try:
        return family.read(HfConfig(path=_NOWHERE, values=values))
    except (ModelError, *_UNREADABLE) as error:
        return str(error)


def _culprit(values: Mapping[str, Any], *, family: Family, outcome: str) -> str | None:
    """The key without which a reader gets further."""
    for key in values:
        without = _outcome({k: v for k, v in values.items() if k != key}, family=family)
        needed = isinstance(without, str) and f" has no {key}," in without
        if without != outcome and not needed:
            return key
    return None


def _unread(
    values: Mapping[str, Any], *, family: Family, outcome: Architecture
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # What is off or empty asks for nothing.
        if not value or key in _OF_NO_FAMILY or key.endswith("_token_id"):
            continue
        if _outcome({**values, key: object()}, family=family) == outcome:
            yield key, value


def _wanted(
    family: Family, *, architecture: Architecture, stored: Collection[str]
) -> Iterator[str]:
    """Patterns of the family's tensors, of those with parts in it where folders have these."""
    parts = family.parts(architecture).items()
    wholes = {_pattern(name): (_pattern(part.name), part.optional) for name, part in parts}
    rows = (row for row in family.params if row.present(architecture))
    for name in (source.name for row in rows for source in row.sources):
        own = name.format(layer="*", expert="*")
        whole, is_optional = wholes.get(own, (own, False))
        is_whole = family.fused and not is_optional
        yield whole if is_whole or own not in stored else own


def _stored_patterns(config: HfConfig) -> set[str] | None:
    """Names of the text model's tensors as a family has them; ``None`` where there are none."""
    try:
        names = stored_names(config.path.parent)
    except ModelError:  # The files are not whole: config.json says what it can.
        return None
    if names is None:
        return None
    return set(_patterns(list(names), has_parts=INNER in config.values))


def _patterns(names: Sequence[str], *, has_parts: bool) -> Iterator[str]:
    tables = [name for name in names if name.endswith(f".{_EMBEDDING}")]
    base = min(tables, key=len).removesuffix(_EMBEDDING) if tables else BASE
    for name in names:
        if name.startswith(base):
            yield _pattern(BASE + name.removeprefix(base))
        elif HEAD in name:
            yield name[name.index(HEAD) :]
        elif not has_parts:
            yield _pattern(name)


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
