# SPDX-License-Identifier: Apache-2.0
"""The choice of experts beside the routers of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megacpt.families.architecture import Experts, Routing
from megacpt.model.layers.choice import choose_experts, scores_of

TOKENS, HIDDEN, EXPERTS = 200, 16, 12


def router_of(model_type: str, **changes: Any) -> Any:
    from transformers import AutoConfig
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

    classes = {
        "deepseek_v2": DeepseekV2TopkRouter,
        "deepseek_v3": DeepseekV3TopkRouter,
        "qwen2_moe": Qwen2MoeTopKRouter,
    }
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 1, "num_key_value_heads": 1}
    number = "num_experts" if model_type == "qwen2_moe" else "n_routed_experts"
    config = AutoConfig.for_model(model_type, **{**sizes, number: EXPERTS, **changes})
    router = classes[model_type](config)
    torch.nn.init.normal_(router.weight)
    if hasattr(router, "e_score_correction_bias"):
        router.e_score_correction_bias.normal_(0.0, 0.5)
    return router


@pytest.mark.parametrize("per_token", [2, 3])
@pytest.mark.parametrize(
    ("model_type", "changes", "routing", "renormalised"),
    [
        ("qwen2_moe", {"norm_topk_prob": True}, Routing(), True),
        ("qwen2_moe", {"norm_topk_prob": False}, Routing(), False),
        ("deepseek_v2", {"routed_scaling_factor": 1.7}, Routing(scale=1.7), False),
        (
            "deepseek_v2",
            {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
            Routing(groups=4, groups_per_token=2),
            False,
        ),
        *(
            (
                "deepseek_v3",
                {"n_group": 3, "topk_group": 1, "norm_topk_prob": renormalised},
                Routing(
                    sigmoid=True,
                    correction_bias=True,
                    groups=3,
                    groups_per_token=1,
                    group_scored_by=2,
                    scale=2.5,
                ),
                renormalised,
            )
            for renormalised in (True, False)
        ),
    ],
)
def test_weights_are_those_of_transformers(
    model_type: str, changes: dict[str, Any], routing: Routing, renormalised: bool, per_token: int
) -> None:
    torch.manual_seed(per_token)
    router = router_of(model_type, num_experts_per_tok=per_token, **changes)
    experts = Experts(
        num=EXPERTS,
        per_token=per_token,
        balance_coefficient=0.0,
        renormalised=renormalised,
        routing=routing,
    )
    logits_TE, weights_TK, indices_TK = router(torch.randn(TOKENS, HIDDEN))
    expected_TE = torch.zeros(TOKENS, EXPERTS).scatter(1, indices_TK, weights_TK)
    bias_E = getattr(router, "e_score_correction_bias", None)
    found_TE, chosen_TE = choose_experts(
        scores_of(logits_TE, routing=routing), logits_TE=logits_TE, experts=experts, bias_E=bias_E
    )
    torch.testing.assert_close(found_TE, expected_TE)
    assert torch.equal(chosen_TE, expected_TE > 0)
    assert bool((chosen_TE.sum(dim=1) == per_token).all())


@pytest.mark.parametrize("per_token", [1, 3])
def test_logits_choose_where_all_sigmoids_are_one(per_token: int) -> None:
    """As in Llama 4."""
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4Router

    torch.manual_seed(per_token)
    router = Llama4Router(
        Llama4TextConfig(
            hidden_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=per_token
        )
    )
    torch.nn.init.normal_(router.weight, std=20.0)
    expected_TE, logits_TE = router(torch.randn(TOKENS, HIDDEN))
    assert int((expected_TE == 1.0).sum(dim=1).max()) == per_token
    assert bool(((logits_TE.sigmoid() == 1.0).sum(dim=1) > per_token).any())
    routing = Routing(sigmoid=True)
    experts = Experts(
        num=EXPERTS,
        per_token=per_token,
        balance_coefficient=0.0,
        renormalised=False,
        routing=routing,
    )
    found_TE, _ = choose_experts(
        scores_of(logits_TE, routing=routing), logits_TE=logits_TE, experts=experts, bias_E=None
    )
    torch.testing.assert_close(found_TE, expected_TE, rtol=0.0, atol=0.0)
