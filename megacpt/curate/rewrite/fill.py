# SPDX-License-Identifier: Apache-2.0
"""Fill in the middle: a document's middle at its end, after what is around it.

Bavarian et al. 2022 (https://arxiv.org/abs/2207.14255): the text is cut at two places, drawn among
all characters alike, into prefix, middle and suffix, and becomes with the tokens PRE, SUF and MID

    PSM  PRE prefix SUF suffix MID middle
    SPM  PRE SUF suffix MID prefix middle

the second so that both are continued by the same rule. The end of text comes with tokenization.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import xxhash

from megacpt.curate.rewrite.settings import FillConfig
from megacpt.errors import ConfigError
from megacpt.text import listed
from megacpt.tokenizer import load_tokenizer

_BITS = 64


class Filled(NamedTuple):
    order: str
    """``psm``, ``spm``; or ``kept`` or ``marked``: as it was, the latter as it holds a token."""
    text: str


def move_middle(text: str, *, id: str, settings: FillConfig) -> Filled:
    """The same for the same id, whatever else there is."""
    prefix, middle, suffix = cuts(text, id=id, seed=settings.seed)
    pre, suf, mid = settings.prefix, settings.suffix, settings.middle
    if _draw(id, seed=settings.seed, what="rate", below=1 << _BITS) >= settings.rate * 2**_BITS:
        return Filled("kept", text)
    if any(token in text for token in (pre, suf, mid)):
        return Filled("marked", text)
    if _draw(id, seed=settings.seed, what="spm", below=1 << _BITS) < settings.spm_rate * 2**_BITS:
        return Filled("spm", f"{pre}{suf}{suffix}{mid}{prefix}{middle}")
    return Filled("psm", f"{pre}{prefix}{suf}{suffix}{mid}{middle}")


def cuts(text: str, *, id: str, seed: int) -> tuple[str, str, str]:
    """Prefix, middle and suffix; each may be empty."""
    places = [_draw(id, seed=seed, what=name, below=len(text) + 1) for name in ("first", "second")]
    start, stop = sorted(places)
    return text[:start], text[start:stop], text[stop:]


def _draw(id: str, *, seed: int, what: str, below: int) -> int:
    """A whole number from 0, each with the same chance."""
    number = xxhash.xxh3_64_intdigest(f"{seed}\0{id}\0{what}".encode("utf-8", "replace"))
    return number * below >> _BITS


def require_tokens(
    settings: FillConfig, *, notice: Callable[[str], None] = lambda text: None
) -> str:
    """The tokenizer's fingerprint; ``ConfigError`` where it would take one of the three apart."""
    tokenizer = load_tokenizer(settings.tokenizer)
    names = {"prefix": settings.prefix, "suffix": settings.suffix, "middle": settings.middle}
    if len(set(names.values())) < len(names):
        raise ConfigError(
            f"rewrite.fill_in_the_middle: {listed(names)} must be three tokens, got "
            f"{listed(names.values())}."
        )
    for name, token in names.items():
        alone = tokenizer.encode(token, special=False)
        within = tokenizer.encode(f"x{token}y", special=False)
        if len(alone) != 1 or list(within).count(alone[0]) != 1:
            raise ConfigError(
                f"rewrite.fill_in_the_middle.{name}={token} is no token of {settings.tokenizer}, "
                f"which makes {len(alone)} of it; name one that it has, or add it with megacpt "
                "vocabulary."
            )
        around = f"x\n {token}\n y"
        if (seen := tokenizer.decode(tokenizer.encode(around, special=False))) != around:
            notice(
                f"{settings.tokenizer} changes blanks beside {token}: of {around!r} it makes "
                f"{seen!r}; so will whatever is trained on it."
            )
    return tokenizer.fingerprint
