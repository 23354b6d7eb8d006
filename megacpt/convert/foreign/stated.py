# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint of Megatron says of its model that no tensor shows: heads, groups, rotary base.

The same tensors under another number of heads are another model, and nothing would tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megacpt.checkpoint.stored.dcp import DcpFolder
from megacpt.checkpoint.stored.torch_file import read_torch_file
from megacpt.errors import CheckpointError
from megacpt.families.architecture import Architecture

BRIDGE = "run_config.yaml"
_COMMON_FILE, _COMMON_ENTRY = "common.pt", "common_state/shard_0_1"
"""Where megatron-core keeps what is no tensor: until 0.18, and since."""
_EXPECTED: Mapping[str, Callable[[Architecture], float | None]] = {
    "num_attention_heads": lambda a: a.num_heads,
    "num_query_groups": lambda a: a.num_kv_heads,
    "kv_channels": lambda a: a.head_dim,
    "rotary_base": lambda a: a.rope_theta,
    "norm_epsilon": lambda a: a.norm_eps,
    "layernorm_epsilon": lambda a: a.norm_eps,
    "moe_router_topk": lambda a: a.experts.per_token if a.experts else None,
}
"""By the names of Megatron-LM's arguments and Megatron-Bridge's settings."""


def require_settings(folder: DcpFolder, *, architecture: Architecture, described_by: Path) -> None:
    """Refuse a config.json that says another thing than the checkpoint does."""
    for name, value in _settings(folder).items():
        expected = _EXPECTED[name](architecture) if name in _EXPECTED else None
        if expected is not None and not math.isclose(value, expected, rel_tol=1e-6):
            raise CheckpointError(
                f"{folder.folder} was trained with {name}={value:g}, but "
                f"{described_by / 'config.json'} states {expected:g}; name the Hugging Face folder "
                "of this model with --base."
            )


def _settings(folder: DcpFolder) -> dict[str, float]:
    stated = _of_bridge(folder.folder / BRIDGE) or _of_megatron_lm(folder)
    numbers = {
        name: float(value)
        for name, value in stated.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if stated.get("group_query_attention") is False:
        # Its default says one group, which then counts for nothing.
        numbers.pop("num_query_groups", None)
    return numbers


def _of_bridge(path: Path) -> dict[str, Any]:
    """The numbers of the section ``model``."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    section = re.search(r"^model:\n((?:[ \-].*\n|\n)*)", text, re.MULTILINE)
    lines = re.findall(r"^  (\w+): ([-+.\deE]+)$", section[1] if section else "", re.MULTILINE)
    return {name: float(value) for name, value in lines}


def _of_megatron_lm(folder: DcpFolder) -> dict[str, Any]:
    """The arguments of the command."""
    known = {("argparse", "Namespace"): _Arguments}
    if _COMMON_ENTRY in folder.others:
        common = folder.read_object(_COMMON_ENTRY, known=known)
    elif (folder.folder / _COMMON_FILE).is_file():
        common = read_torch_file(folder.folder / _COMMON_FILE, known=known)
    else:
        return {}
    # megatron-core 0.19 saves the entry as a list of one.
    if isinstance(common, list) and len(common) == 1:
        (common,) = common
    stated = common.get("args") if isinstance(common, dict) else None
    return stated.values if isinstance(stated, _Arguments) else {}


class _Arguments:
    """What argparse made of a command."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = state
