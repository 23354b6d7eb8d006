# SPDX-License-Identifier: Apache-2.0
"""Families whose tokens see no more than the last ones before them, in all layers or in some."""

from __future__ import annotations

from typing import Any

from tests.family_cases import Case

WINDOW: dict[str, Any] = {"sliding_window": 11, "use_sliding_window": True}
FULL, LOCAL = "full_attention", "sliding_attention"
OFF_BY_ONE = {f"a window of {w}": {"sliding_window": w} for w in (10, 12)}
NONE = {"windows": {"use_sliding_window": False}}
SHIFTED = {"the layers": {"layer_types": [FULL, LOCAL, FULL, LOCAL]}}
CASES = {
    "mistral": Case(
        model_type="mistral",
        changes={"sliding_window": 11, "head_dim": 24},
        without={"window": {"sliding_window": None}, **OFF_BY_ONE},
    ),
    "mixtral": Case(
        model_type="mixtral",
        changes={"sliding_window": 37, "num_local_experts": 4, "intermediate_size": 40},
        without={"window": {"sliding_window": None}},
    ),
    "qwen2": Case(
        model_type="qwen2",
        changes=WINDOW | {"max_window_layers": 1},
        without=NONE | OFF_BY_ONE | SHIFTED,
    ),
    "qwen3": Case(
        model_type="qwen3",
        changes=WINDOW | {"layer_types": [LOCAL, FULL, LOCAL, FULL], "head_dim": 16},
        without=NONE | SHIFTED,
    ),
    "smollm3": Case(
        model_type="smollm3",
        changes=WINDOW | {"no_rope_layers": [0, 1, 0, 1], "pad_token_id": None},
        without=NONE | SHIFTED,
    ),
}
