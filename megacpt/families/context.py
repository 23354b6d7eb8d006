# SPDX-License-Identifier: Apache-2.0
"""A model that is to see longer texts than it was made for, by other rotary positions."""

from __future__ import annotations

from dataclasses import replace

from megacpt.config.sections import RopeConfig, RopeKind
from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.rope import (
    BETA_FAST,
    BETA_SLOW,
    LinearRopeScaling,
    Llama3RopeScaling,
    RopeScaling,
    YarnRopeScaling,
    mscale,
)

_WITHOUT = ("phi3",)
"""Families of which transformers reads no kind but longrope, whose divisors a search finds."""


def stretched(architecture: Architecture, *, by: RopeConfig) -> Architecture:
    """The same with the rope that is asked for, and as many positions as it gives.

    A rope that layers with a window have for themselves stays: they see no further than before.
    """
    if architecture.family in _WITHOUT:
        raise ModelError(
            f"model.rope={by.kind.name} is not there for {architecture.family}, whose long texts "
            "need divisors that a search has found (longrope); use model.rope=null."
        )
    if architecture.latent is not None:
        raise ModelError(
            f"model.rope={by.kind.name} is not there for {architecture.family}, whose latent "
            "attention scales its scores by the yarn it was made with; use model.rope=null."
        )
    stated = getattr(architecture.rope_scaling, "original_max_positions", None)
    original = by.original_max_positions or stated or architecture.max_positions
    longest = round(original * by.factor)
    if longest < architecture.max_positions:
        raise ModelError(
            f"model.rope.factor={by.factor:g} gives {longest} positions ({original} times it), "
            f"fewer than the model's max_position_embeddings={architecture.max_positions}; use "
            f"{architecture.max_positions / original:g} or more."
        )
    growth = architecture.query_growth
    if growth is not None and not growth.unrotated:
        growth = replace(growth, original_max_positions=original)
    return replace(
        architecture,
        max_positions=longest,
        rope_theta=by.theta or architecture.rope_theta,
        rope_scaling=_scaling(by, original=original),
        query_growth=growth,
    )


def _scaling(by: RopeConfig, *, original: int) -> RopeScaling | None:
    """With the defaults of transformers and, for ``llama3``, the bounds of Llama 3.1."""
    match by.kind:
        case RopeKind.default:
            return None
        case RopeKind.linear:
            return LinearRopeScaling(factor=by.factor)
        case RopeKind.llama3:
            return Llama3RopeScaling(
                factor=by.factor,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_positions=original,
            )
        case RopeKind.yarn:
            return YarnRopeScaling(
                factor=by.factor,
                original_max_positions=original,
                beta_fast=BETA_FAST,
                beta_slow=BETA_SLOW,
                attention_factor=mscale(by.factor),
                truncate=True,
            )
