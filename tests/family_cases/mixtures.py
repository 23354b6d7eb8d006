# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts of Mixtral's and Qwen's kind."""

from __future__ import annotations

from tests.family_cases import Case
from tests.mixtral_cases import CASES as CHANGES

TOP2_OF_4 = {"intermediate_size": 40, "num_local_experts": 4, "num_experts_per_tok": 2}
CASES = {
    name: Case(
        model_type=changes.get("model_type", "mixtral"),
        changes=(TOP2_OF_4 | changes)
        | {"model_type": ...}
        | ({"num_local_experts": ...} if "num_experts" in changes else {}),
        without={"its weights of experts": {"norm_topk_prob": not changes["norm_topk_prob"]}}
        if "norm_topk_prob" in changes
        else {},
    )
    for name, changes in CHANGES.items()
}
