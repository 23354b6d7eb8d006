# SPDX-License-Identifier: Apache-2.0
"""Frequencies of rotary positions, by the formulas of transformers (float32 throughout)."""

from __future__ import annotations

import math

import torch

from megacpt.families.architecture import Architecture, Llama3RopeScaling


def inverse_frequencies(architecture: Architecture) -> torch.Tensor:
    """Radians a position for each pair of channels, head_dim / 2 of them."""
    dim = architecture.head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    frequencies = 1.0 / (architecture.rope_theta**exponents)
    if architecture.rope_scaling is None:
        return frequencies
    return _llama3(frequencies, scaling=architecture.rope_scaling)


def _llama3(frequencies: torch.Tensor, *, scaling: Llama3RopeScaling) -> torch.Tensor:
    """Long wavelengths stretched by ``factor``, short ones kept, a smooth blend between
    (transformers, modeling_rope_utils.py, _compute_llama3_parameters)."""
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
