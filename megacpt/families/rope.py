# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: base of the frequencies, which channels turn, how longer texts stretch them.

The kinds and their defaults are those of transformers (modeling_rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megacpt.families.hf_config import HfConfig

BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Of yarn, where config.json states none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRopeScaling:
    """Positions are divided by ``factor``."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProportionalRopeScaling:
    """Frequencies are spaced for the whole head; the slowest are zero, but ``share`` of them."""

    factor: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3RopeScaling:
    """Frequency-dependent position interpolation (Llama 3.1, ``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnRopeScaling:
    """Slow frequencies are divided, fast ones kept, those between blended (arXiv 2309.00071)."""

    factor: float
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    """Of both query and key, in the channels that turn."""
    truncate: bool
    """The blend begins and ends at whole channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """A divisor for each frequency, another where a text is longer than it was (Phi-3)."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_positions: int
    attention_factor: float
    """As that of ``YarnRopeScaling``, for short texts and long ones."""


RopeScaling = (
    LinearRopeScaling
    | ProportionalRopeScaling
    | Llama3RopeScaling
    | YarnRopeScaling
    | LongRopeScaling
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """One kind of rotary positions; a model may have two."""

    theta: float
    scaling: RopeScaling | None = None
    """``None`` where nothing is stretched, whatever the kind is called."""
    share: float = 1.0
    """Of a head's channels, from the first, that turn."""

    def num_channels(self, head_dim: int) -> int:
        return int(head_dim * self.share)

    @property
    def attention_factor(self) -> float:
        return float(getattr(self.scaling, "attention_factor", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedRope:
    """What config.json says, and what it comes to."""

    rope: Rope
    kind: str
    """As config.json calls it."""
    stated: Mapping[str, Any]
    """All it says of this kind."""

    @property
    def theta(self) -> float:
        return self.rope.theta

    @property
    def scaling(self) -> RopeScaling | None:
        return self.rope.scaling


def scaling_of(config: HfConfig, *, kind: str) -> RopeScaling | None:
    """``config``: its values and over them those stated of the rope. KeyError: an unknown kind."""
    return _KINDS[kind](config)


def _no_scaling(_: HfConfig) -> None:
    """``default``; and ``dynamic``, which stretches nothing up to ``max_position_embeddings``, and
    samples are never longer."""


def _linear(config: HfConfig) -> LinearRopeScaling | None:
    factor = config.number("factor")
    return None if factor == 1.0 else LinearRopeScaling(factor=factor)


def _proportional(config: HfConfig) -> ProportionalRopeScaling:
    return ProportionalRopeScaling(
        factor=config.number("factor", default=1.0),
        share=config.number("partial_rotary_factor", default=1.0),
    )


def _llama3(config: HfConfig) -> Llama3RopeScaling:
    return Llama3RopeScaling(
        factor=config.number("factor"),
        low_freq_factor=config.number("low_freq_factor"),
        high_freq_factor=config.number("high_freq_factor"),
        original_max_positions=_original(config),
    )


def _yarn(config: HfConfig) -> YarnRopeScaling | None:
    original = _original(config)
    factor = _factor(config, original=original)
    weight, all_dim = (config.number(key, default=0.0) for key in ("mscale", "mscale_all_dim"))
    implied = mscale(factor)
    if weight and all_dim:
        implied = mscale(factor, weight=weight) / mscale(factor, weight=all_dim)
    attention = config.number("attention_factor", default=implied)
    if factor == attention == 1.0:
        return None
    return YarnRopeScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=config.number("beta_fast", default=0.0) or BETA_FAST,
        beta_slow=config.number("beta_slow", default=0.0) or BETA_SLOW,
        attention_factor=attention,
        truncate=config.flag("truncate", default=True),
    )


def _longrope(config: HfConfig) -> LongRopeScaling:
    original = _original(config)
    factor = _factor(config, original=original)
    implied = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    channels = int(config.head_dim() * config.number("partial_rotary_factor", default=1.0))
    return LongRopeScaling(
        short_factors=config.numbers("short_factor", num=channels // 2),
        long_factors=config.numbers("long_factor", num=channels // 2),
        original_max_positions=original,
        attention_factor=config.number("attention_factor", default=implied),
    )


def _original(config: HfConfig) -> int:
    stated = config.values.get("max_position_embeddings")
    default = {} if stated is None else {"default": stated}
    return config.integer("original_max_position_embeddings", **default)


def _factor(config: HfConfig, *, original: int) -> float:
    longest = config.values.get("max_position_embeddings", original)
    return config.number("factor", default=longest / original)


def mscale(factor: float, *, weight: float = 1.0) -> float:
    """The attention factor of a context stretched by ``factor``, as yarn's authors advise."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


_KINDS: Mapping[str, Callable[[HfConfig], RopeScaling | None]] = {
    "default": _no_scaling,
    "dynamic": _no_scaling,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
    "yarn": _yarn,
}
KINDS = tuple(sorted(_KINDS))
_NAMES = {
    "original_max_positions": "original_max_position_embeddings",
    "share": "partial_rotary_factor",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}


BESIDE_SCALING = ("rope_theta", "partial_rotary_factor", "llama_4_scaling_beta")
"""What config.json says among the rest, whichever kind it is."""


def as_stated(scaling: RopeScaling) -> dict[str, Any]:
    """As config.json says it; what readers take by themselves is left out."""
    kind = type(scaling).__name__.removesuffix("RopeScaling").lower()
    values = {_NAMES.get(name, name): value for name, value in asdict(scaling).items()}
    if isinstance(scaling, YarnRopeScaling):
        implied = {
            "attention_factor": mscale(scaling.factor),
            "beta_fast": BETA_FAST,
            "beta_slow": BETA_SLOW,
            "truncate": True,
        }
        values = {name: v for name, v in values.items() if v != implied.get(name)}
    if isinstance(scaling, LongRopeScaling):
        # Phi-3's readers of transformers 4 count the keys; one that was stated is kept.
        del values["attention_factor"]
    return {"rope_type": "longrope" if kind == "long" else kind, **values}
