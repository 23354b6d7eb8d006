# SPDX-License-Identifier: Apache-2.0
"""What a folder calls the tensors of its model, and which of its tensors are not the model's.
Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nested import stated_text, text_of

BASE, HEAD = "model.", "lm_head."
"""What the names of a family begin with."""
_PREDICTION = ("mtp.", "model.mtp_layers.", "model.mtp.")
"""Layers that predict tokens further ahead, where they are not counted on after the others."""
_LAYERS = "layers."


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What stands in a folder where a family has ``model.`` and ``lm_head.``."""

    base: str = BASE
    head: str = HEAD

    def stored(self, name: str) -> str:
        """The folder's name of a tensor of the family."""
        for own, here in ((BASE, self.base), (HEAD, self.head)):
            if name.startswith(own):
                return here + name.removeprefix(own)
        return name

    def layer(self, stored: str) -> int | None:
        """The layer, counted from 0, that a stored tensor is in, if it is in one."""
        inside, _, rest = stored.removeprefix(self.base).partition(".")
        number = rest.partition(".")[0]
        own = stored.startswith(self.base) and f"{inside}." == _LAYERS
        return int(number) if own and number.isdecimal() else None


def naming_of(config: HfConfig, *, names: Iterable[str], stored: Iterable[str]) -> Naming:
    """``names``: those of the family. The text model of several parts lies where most of them are,
    by their endings; any other one where its family has it."""
    if text_of(config) is None:
        return Naming()
    stored = list(stored)
    inside = [name.removeprefix(BASE) for name in names if name.startswith(BASE)]
    bases = {name.removesuffix(inside[0]) for name in stored if name.endswith(f".{inside[0]}")}
    there = set(stored)

    def hits(base: str) -> tuple[int, str]:
        return sum(base + name in there for name in inside), base

    heads = sorted((n for n in stored if n.endswith(f"{HEAD}weight")), key=len)
    return Naming(
        base=max(bases, key=hits, default=BASE),
        head=heads[0].removesuffix("weight") if heads else HEAD,
    )


def is_beside(name: str, *, config: HfConfig, naming: Naming, num_layers: int) -> bool:
    """Whether a stored tensor, which is none of the model's, is none by right: of another part
    (images) or a layer for predicting tokens further ahead. These are not trained."""
    if name.startswith(_PREDICTION):
        return True
    layer = naming.layer(name)
    if layer is not None:
        further = stated_text(config).get("num_nextn_predict_layers") or 0
        return num_layers <= layer < num_layers + int(further)
    return text_of(config) is not None and not name.startswith((naming.base, naming.head))
