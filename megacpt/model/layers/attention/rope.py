# SPDX-License-Identifier: Apache-2.0
"""Frequencies of rotary positions, by the formulas of transformers (float32 throughout), and those
of a model with several kinds of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from megacpt.families.architecture import Architecture
from megacpt.families.rope import (
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    ProportionalRopeScaling,
    Rope,
    YarnRopeScaling,
)


class Ropes(RotaryEmbedding):  # type: ignore[misc]
    """Gives the angles of all kinds side by side along the last dimension, so that all layers may
    be handed the same tensor (megacpt.model.layers.attention.rotation)."""

    tables: tuple[torch.Tensor, ...]
    positions_T: torch.Tensor | None = None
    """Set where the tokens of a row do not stand one after the other (megacpt.model.viewed)."""

    @classmethod
    def take_over(cls, rotary: RotaryEmbedding, *, architecture: Architecture) -> None:
        """Make one of the module that megatron-core has built."""
        device = rotary.inv_freq.device
        rotary.__class__ = cls
        # HybridModel does not pass this on from its configuration.
        rotary.rotary_interleaved = architecture.rotary_pairs
        rotary.tables = tuple(
            inverse_frequencies(rope, head_dim=architecture.head_dim, is_long=is_long).to(device)
            for rope, is_long in table_keys(architecture)
        )

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """megatron-core's keeps what it has made for a length, so a view must not pass it."""
        angles: torch.Tensor = (
            super().forward(*args, **kwargs)
            if self.positions_T is None
            else self.get_emb(len(self.positions_T))
        )
        return angles

    def get_freqs_non_repeated(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.positions_T is not None:
            return torch.outer(self.positions_T.to(self.inv_freq.dtype), self.inv_freq)
        frequencies: torch.Tensor = super().get_freqs_non_repeated(*args, **kwargs)
        return frequencies

    def get_emb(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        angles = []
        for table in self.tables:
            self.inv_freq = table
            angles.append(super().get_emb(*args, **kwargs))
        return torch.cat(angles, dim=-1)


def table_keys(architecture: Architecture) -> tuple[tuple[Rope, bool], ...]:
    """The tables of frequencies that the layers use: of which rope, and whether of long texts."""
    layers = range(architecture.num_layers)
    found = (architecture.rope_of(layer) for layer in layers)
    ropes = dict.fromkeys(rope for rope in found if rope is not None) or {architecture.rope: None}
    return tuple((rope, is_long) for rope in ropes for is_long in _lengths(rope))


def _lengths(rope: Rope) -> tuple[bool, ...]:
    return (False, True) if isinstance(rope.scaling, LongRopeScaling) else (False,)


def inverse_frequencies(rope: Rope, *, head_dim: int, is_long: bool = False) -> torch.Tensor:
    """Radians a position for each pair of channels that turns."""
    channels = rope.num_channels(head_dim)
    exponents = torch.arange(0, channels, 2, dtype=torch.int64).float() / channels
    powers = rope.theta**exponents
    match rope.scaling:
        case None:
            return 1.0 / powers
        case LinearRopeScaling(factor=factor):
            return (1.0 / powers) / factor
        case ProportionalRopeScaling() as scaling:
            turning = torch.arange(len(powers)) < int(scaling.share * head_dim // 2)
            return torch.where(turning, 1.0 / powers, 0.0) / scaling.factor
        case Llama3RopeScaling() as scaling:
            return _llama3(1.0 / powers, scaling=scaling)
        case LongRopeScaling() as scaling:
            divisors = scaling.long_factors if is_long else scaling.short_factors
            return 1.0 / (torch.tensor(divisors) * powers)
        case YarnRopeScaling() as scaling:
            return _yarn(powers, theta=rope.theta, scaling=scaling)


def _llama3(frequencies: torch.Tensor, *, scaling: Llama3RopeScaling) -> torch.Tensor:
    """Long wavelengths stretched by ``factor``, short ones kept, a smooth blend between."""
    wavelengths = 2 * math.pi / frequencies
    longest_kept = scaling.original_max_positions / scaling.high_freq_factor
    shortest_stretched = scaling.original_max_positions / scaling.low_freq_factor
    stretched = torch.where(
        wavelengths > shortest_stretched, frequencies / scaling.factor, frequencies
    )
    share = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - share) * stretched / scaling.factor + share * stretched
    between = ~(wavelengths < longest_kept) * ~(wavelengths > shortest_stretched)
    return torch.where(between, blended, stretched)


def _yarn(powers: torch.Tensor, *, theta: float, scaling: YarnRopeScaling) -> torch.Tensor:
    """A ramp from the channel that turns ``beta_fast`` times over the original length, which is
    kept, to that of ``beta_slow``, which is divided."""
    channels = 2 * len(powers)

    def channel(turns: float, *, rounded: Callable[[float], float]) -> float:
        length = scaling.original_max_positions / (turns * 2 * math.pi)
        place = channels * math.log(length) / (2 * math.log(theta))
        return rounded(place) if scaling.truncate else place

    low = max(channel(scaling.beta_fast, rounded=math.floor), 0)
    high = min(channel(scaling.beta_slow, rounded=math.ceil), channels - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(len(powers), dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * powers) * (1 - kept) + 1.0 / powers * kept
