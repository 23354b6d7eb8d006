# SPDX-License-Identifier: Apache-2.0
"""Machines before a run: what each has, what it must have, and which one is bad."""

from __future__ import annotations

from megacpt.config.sections import PreflightConfig, PreflightWhen
from megacpt.device.environment import RankInfo


def is_wanted(preflight: PreflightConfig, *, ranks: RankInfo) -> bool:
    """Whether a start goes through the preflight; here, so that one that does not loads none."""
    several = ranks.local_world_size < ranks.world_size
    return preflight.when is PreflightWhen.always or (
        preflight.when is PreflightWhen.nodes and several
    )
