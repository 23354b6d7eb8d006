# SPDX-License-Identifier: Apache-2.0
"""Why a ``model_type`` cannot be trained: what a known one would need, or which family an unknown
one is nearest to, and each key and tensor in which it differs. Free of torch.

A family's reader tells by itself which keys it reads: those that change what it finds, or that it
refuses, when they hold something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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

_BY_WHAT: Mapping[str, tuple[str, ...]] = {
    "Mamba layers": (
        *("bamba", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2", "nemotron_h"),
        *("zamba", "zamba2"),
    ),
    "Mamba beside attention in every layer": ("falcon_h1",),
    "embeddings of each layer, keys and values that layers share, and head sizes of each layer": (
        *("gemma3n", "gemma3n_text", "gemma4", "gemma4_assistant", "gemma4_text"),
        *("gemma4_unified", "gemma4_unified_assistant", "gemma4_unified_text"),
    ),
    "gated short convolutions in place of attention": ("lfm2", "lfm2_moe", "lfm3"),
    "short convolutions and scores by distance in every layer": ("inkling2_text", "inkling_text"),
    "delta attention, whose state decays channel by channel": ("bailing_hybrid", "kimi_linear"),
    "lightning attention, which keeps a state": ("minimax",),
    "gated delta nets beside OLMo's attention": ("olmo_hybrid",),
    "linear recurrent units in place of attention": ("recurrent_gemma",),
    "recurrence in place of attention": ("rwkv", "xlstm"),
    "an indexer that chooses what a token sees": (
        *("axk2", "deepseek_v32", "deepseek_v4", "dots3_note_text", "glm5_next_text"),
        *("glm_moe_dsa", "hy_v4", "minimax_m3_vl_text", "qwen4_exp_text"),
    ),
    "hashes that choose what a token sees": ("reformer",),
    "convolutions within attention": ("zaya",),
    "differences of two attentions": ("diffllama",),
    "masks that values make": ("doge",),
    "two attentions a layer, and experts that do nothing": ("longcat_flash",),
    "experts of attention": ("jetmoe",),
    "layers that are passed several times": ("hrm_text",),
    "bytes that a model of their own groups": ("blt",),
    "ALiBi, a bias of attention scores in place of rotary positions": ("bloom", "mpt"),
    "learned positions": (
        *("biogpt", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt"),
    ),
    "layers that look at images from within the text model": ("mllama",),
    "a model to compare with: transformers leaves its logit_scale out": ("aya_vision",),
    "an encoder; only decoders are trained": ("t5",),
}
MISSING: Mapping[str, str] = {
    model_type: what for what, model_types in _BY_WHAT.items() for model_type in model_types
}
"""What megacpt lacks for models that people ask for."""
_OF_NO_FAMILY = {
    *STORAGE_KEYS,
    *("architectures", "attention_dropout", "auto_map", "dtype", "hidden_dropout", "model_type"),
    *("pretraining_tp", "torch_dtype", "transformers_version", "use_cache", INNER),
    *("id2label", "label2id", "return_dict"),
}
"""Keys that say nothing of what a model computes in training."""
_SHOWN = 8
_NOWHERE = Path("config.json")
_EMBEDDING = "embed_tokens.weight"
_STATED_BY = {
    "experts": ("a number of experts", ("expert", "moe")),
    "latent": ("a rank of latent attention", ("lora_rank",)),
    "delta_net": ("a size of delta nets", ("linear_",)),
}
"""What a family may have that is there by its own default alone: its name, parts of its keys."""
_NEEDED = re.compile(r" has no (\w+), which this family needs")
_INSTEAD = {"hidden_size": 40320}
"""Of keys that are not there, else 1: a size that heads divide, whatever their number."""
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
    absent: tuple[str, ...] = ()
    """What the family cannot do without."""
    extra: tuple[str, ...] = ()
    """Stored tensors that the family has no place for, ``*`` for numbers."""
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        found = (self.refused, self.unknown, self.absent, self.extra, self.missing)
        return sum(map(len, found))

    def lines(self) -> Iterator[str]:
        yield from (f"config.json: {why}" for why in self.refused)
        for key, value in self.unknown.items():
            yield f"config.json: {key}={_short(value)} is not read"
        yield from (f"config.json: {key} is not there" for key in self.absent)
        yield from (f"weights: {name} has no place" for name in self.extra)
        yield from (f"weights: {name} is not there" for name in self.missing)


def unknown_family(config: HfConfig, *, families: Mapping[str, Family]) -> ModelError:
    """The error for a model whose ``model_type`` is none of ``families``."""
    known = ", ".join(sorted(families))
    model_type = config.values.get("model_type")
    stated = f"{config.path}: model_type must be one of {known}, but is {model_type!r}"
    if lacking := _lacking(config):
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


def _lacking(config: HfConfig) -> str | None:
    """What is missing for the model, or for its text."""
    if config.values.get("is_encoder_decoder"):
        return MISSING["t5"]
    types = (str(values.get("model_type")) for values in (config.values, stated_text(config)))
    return next((MISSING[name] for name in types if name in MISSING), None)


def nearest(config: HfConfig, *, families: Mapping[str, Family]) -> FamilyDifference | None:
    """The family with the fewest differences; of several Llama, then by name."""
    stored, best = _stored_patterns(config), None
    for name in sorted(families, key=lambda name: (name != "llama", name)):
        most = math.inf if best is None else best.size
        found = _compare(config, name=name, family=families[name], stored=stored, below=most)
        best = found or best
    return best


def _compare(
    config: HfConfig, *, name: str, family: Family, stored: set[str] | None, below: float
) -> FamilyDifference | None:
    """``None``: no fewer differences than ``below``, or none that can be told."""
    values, refused, absent = dict(stated_text(config)), [], []
    while isinstance(outcome := _outcome(values, family=family), str):
        needed = _NEEDED.search(outcome)
        if needed and needed[1] not in absent:
            absent.append(needed[1])
            values[needed[1]] = _INSTEAD.get(needed[1], 1)
            continue
        culprit = _culprit(values, family=family, outcome=outcome)
        if culprit is None:
            return None
        refused.append(outcome.partition(": ")[2].rpartition(";")[0])
        del values[culprit]
    absent += _unstated(values, architecture=outcome)
    found = FamilyDifference(family=name, refused=tuple(refused), absent=tuple(absent))
    if stored is not None:
        wanted = set(_wanted(family, architecture=outcome, stored=stored))
        extra, missing = sorted(stored - wanted), sorted(wanted - stored)
        found = replace(found, extra=tuple(extra), missing=tuple(missing))
    unknown: dict[str, Any] = {}
    for key, value in _unread(values, family=family, outcome=outcome):
        if found.size + len(unknown) >= below:
            break
        unknown[key] = value
    found = replace(found, unknown=unknown)
    return found if found.size < below else None


def _unstated(values: Mapping[str, Any], *, architecture: Architecture) -> list[str]:
    """What config.json does not speak of."""
    return [
        name
        for what, (name, words) in _STATED_BY.items()
        if getattr(architecture, what) is not None
        and not any(word in key for key in values for word in words)
    ]


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
