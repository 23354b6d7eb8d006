# SPDX-License-Identifier: Apache-2.0
"""Further cases of every family, in which the options of its reader take their values in turn.

Which value meets which others is drawn, by the names of family and option, so that an option more
leaves the others where they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tests.family_cases import Case
from tests.family_cases.deepseek import LATENT
from tests.family_cases.delta_mixtures import drawn
from tests.family_cases.delta_nets import NOISE, draw
from tests.family_cases.norms import ropes, weights_less_one
from tests.family_cases.routed import gate_is_sure
from tests.family_cases.stacked import named_by_granite

Values = Sequence[Mapping[str, Any]]
"""Of one option: what config.json says in each of its turns."""


def without_biases(model: Any, *, of: str) -> None:
    named = dict(model.named_parameters())
    found = [n for n in named if of in n and n.endswith("bias") and "norm" not in n]
    assert found
    for name in found:
        named[name].data.zero_()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Cases of one family."""

    like: Case
    """What all of them have in common."""
    count: int
    weights: Mapping[str, Values]
    """Options that decide which weights there are."""
    settings: Mapping[str, Values]
    """Options that read the same weights in another way: the first case with the first value is
    another model with the second."""

    def cases(self) -> Iterator[Case]:
        options = {**self.weights, **self.settings}
        turns = {name: self._turns(name, values=values) for name, values in options.items()}
        for number in range(self.count):
            changes = dict(self.like.changes)
            for turn in turns.values():
                changes |= turn[number]
            without = {
                f"another {name}": values[1]
                for name, values in self.settings.items()
                if turns[name].index(values[0]) == number
            }
            yield replace(self.like, changes=changes, without=without, spoilt=_spoilt(changes))

    def _turns(self, name: str, *, values: Values) -> list[Mapping[str, Any]]:
        """One for each case, all values equally often."""
        turns = [values[number % len(values)] for number in range(self.count)]
        random.Random(f"{self.like.model_type} {name}").shuffle(turns)
        return turns


BIASES = {
    ".self_attention.": ("attention_bias", "qkv_bias", "use_bias"),
    ".mlp.": ("mlp_bias", "use_bias"),
}


def _spoilt(changes: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
    return {
        f"biases of {part.strip('.')}": partial(without_biases, of=part)
        for part, keys in BIASES.items()
        if any(changes.get(key) for key in keys)
    }


def each(key: str, *values: Any) -> Values:
    return [{key: value} for value in values]


def family(
    like: Case | str, *, count: int, settings: Mapping[str, Values], **weights: Values
) -> Draws:
    """With the sizes of a layer and the tie of embedding and head, as all families have them."""
    common = {"shape": SHAPES, "tie": TIE}
    return Draws(
        like=Case(model_type=like) if isinstance(like, str) else like,
        count=count,
        weights=common | weights,
        settings=settings,
    )


def shape(hidden: int, *, heads: int, groups: int, ffn: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": ffn,
    }


SHAPES = (
    shape(48, heads=6, groups=6, ffn=72),
    shape(36, heads=3, groups=3, ffn=60),
    shape(40, heads=5, groups=1, ffn=56),
    shape(64, heads=4, groups=2, ffn=96),
)
TIE = each("tie_word_embeddings", True, False)
HEAD_DIM = each("head_dim", 16, 24)
ATTENTION_BIAS = each("attention_bias", True, False)
EPSILON = each("rms_norm_eps", 1e-2, 1e-6)
PLAIN = {"rope_type": "default", "rope_theta": 300.0}
STRETCHED = {"rope_theta": 1000.0, "original_max_position_embeddings": 32}
YARN = STRETCHED | {"rope_type": "yarn", "factor": 8.0}
LLAMA3 = STRETCHED | {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
ROPE = each("rope_parameters", YARN, PLAIN, LLAMA3, LINEAR)


def of_a_part(rope: Mapping[str, Any], *, share: float) -> dict[str, Any]:
    return {"rope_parameters": {**rope, "partial_rotary_factor": share}}


PARTS = (
    of_a_part(YARN, share=0.5),
    of_a_part(PLAIN, share=1.0),
    of_a_part(LINEAR, share=0.25),
    of_a_part(LLAMA3, share=0.5),
)
DENSE = {"epsilon": EPSILON, "rope": ROPE}
FULL, LOCAL, LINEAR_ATTENTION = "full_attention", "sliding_attention", "linear_attention"
WINDOW = each("sliding_window", 11, None, 30)
LOCAL_WINDOW = each("sliding_window", 20, 7)
LAYERS = each("layer_types", [LOCAL, FULL] * 2, [FULL, LOCAL, LOCAL, FULL], [LOCAL] * 3 + [FULL])
SOME_WINDOWS = (
    {"use_sliding_window": True, "sliding_window": 23, "layer_types": [LOCAL, FULL, FULL, LOCAL]},
    {"use_sliding_window": False, "layer_types": [FULL] * 4},
)
QWEN_WINDOWS = (
    SOME_WINDOWS[0],
    {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
)
MLP = each("hidden_act", "gelu", "silu", "gelu_pytorch_tanh")
GEMMA = {
    "epsilon": each("rms_norm_eps", 5e-2, 1e-6),
    "scale of scores": each("query_pre_attn_scalar", 40, 5),
    "bound of logits": each("final_logit_softcapping", 1.5, None),
    "activation": each("hidden_activation", "gelu", "silu", "gelu_pytorch_tanh"),
    "window": LOCAL_WINDOW,
    "kinds of layers": LAYERS,
}
TWO_ROPES = (
    ropes(YARN, local_theta=300.0),
    ropes(LINEAR, local_theta=50.0),
    ropes(PLAIN, local_theta=2000.0),
)
COHERE = {
    "epsilon": each("layer_norm_eps", 1e-2, 1e-5),
    "scale of logits": each("logit_scale", 0.3, 1.5),
    "activation": MLP,
    "rope": ROPE,
}
GRANITE = DENSE | {
    "scale of embeddings": each("embedding_multiplier", 3.0, 0.7),
    "scale of scores": each("attention_multiplier", 0.5, 0.1),
    "scale of residuals": each("residual_multiplier", 0.5, 1.2),
    "scale of logits": each("logits_scaling", 0.4, 1.3),
}
GROWTH = {"llama_4_scaling_beta": 0.7}
DENSE_LAYERS = ({"decoder_sparse_step": 2}, {"mlp_only_layers": [1, 3]}, {"decoder_sparse_step": 1})
PER_TOKEN = each("num_experts_per_tok", 2, 3)
SHARES = {"experts of a token": PER_TOKEN, "shares": each("norm_topk_prob", True, False)}
QWEN_EXPERTS = (
    {"num_experts": 4, "moe_intermediate_size": 24},
    {"num_experts": 6, "moe_intermediate_size": 36},
)
ROUTED = (
    {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 36,
        "first_k_dense_replace": 2,
    },
    {
        "n_routed_experts": 12,
        "n_shared_experts": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 0,
    },
)
GROUPS = (
    {"n_group": 2, "topk_group": 1},
    {"n_group": 1, "topk_group": 1},
    {"n_group": 4, "topk_group": 2},
)
ROUTING = {
    "experts of a token": PER_TOKEN,
    "scale of experts": each("routed_scaling_factor", 1.7, 0.6),
}
LATENT_SHAPES = [sizes | {"num_key_value_heads": sizes["num_attention_heads"]} for sizes in SHAPES]
LOCAL_EXPERTS = (
    {"num_local_experts": 4, "intermediate_size": 40},
    {"num_local_experts": 6, "intermediate_size": 24},
)
RANKS = (
    {
        "q_lora_rank": 14,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 12,
    },
    {"q_lora_rank": None, "v_head_dim": 8},
    {"qk_nope_head_dim": 10},
)
NETS = [
    {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": kernel,
    }
    for key_heads, value_heads, key_dim, value_dim, kernel in (
        (2, 6, 8, 12, 3),
        (4, 4, 12, 8, 2),
        (3, 3, 8, 8, 4),
    )
]
DELTA_LAYERS = (
    {"layer_types": [LINEAR_ATTENTION, FULL] * 2},
    {"layer_types": [FULL, LINEAR_ATTENTION, LINEAR_ATTENTION, LINEAR_ATTENTION]},
    {"full_attention_interval": 3},
)
DELTA = {"epsilon": each("rms_norm_eps", 5e-2, 2e-1), "rope": PARTS}
"""With a larger epsilon the noise of transformers itself stays below the tolerance."""
SHARED_EXPERTS = [
    experts | {"shared_expert_intermediate_size": shared}
    for experts, shared in zip(QWEN_EXPERTS, (36, 24), strict=True)
]
DEEPSEEK = ROUTING | {
    "epsilon": EPSILON,
    "rope": each(
        "rope_parameters",
        YARN | {"beta_fast": 8.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0},
        PLAIN,
        LLAMA3,
    ),
}
DRAWS = (
    family(
        "llama",
        count=2,
        settings=DENSE,
        head_dim=HEAD_DIM,
        biases=({"attention_bias": True}, {"mlp_bias": True}),
    ),
    family("qwen2", count=2, settings=DENSE | {"windows": QWEN_WINDOWS}),
    family(
        "qwen3",
        count=2,
        settings=DENSE | {"windows": QWEN_WINDOWS},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family("mistral", count=4, settings=DENSE | {"window": WINDOW}, head_dim=HEAD_DIM),
    family(
        "ministral3",
        count=4,
        settings={
            "epsilon": EPSILON,
            "window": WINDOW,
            "rope": each(
                "rope_parameters",
                YARN | GROWTH | {"original_max_position_embeddings": 9},
                YARN | GROWTH | {"mscale": 1.0, "mscale_all_dim": 1.0},
                PLAIN | GROWTH | {"original_max_position_embeddings": 20},
            ),
        },
        head_dim=HEAD_DIM,
    ),
    family(
        "phi3",
        count=3,
        settings={
            "epsilon": EPSILON,
            "window": WINDOW,
            "rope": (of_a_part(PLAIN, share=0.5), of_a_part(PLAIN, share=1.0)),
        },
    ),
    family(
        "smollm3",
        count=3,
        settings=DENSE | {"windows": SOME_WINDOWS},
        # Without positions a bias of keys has no gradient but noise.
        biases=(
            {"attention_bias": True, "no_rope_layers": [1] * 4},
            {"mlp_bias": True, "no_rope_layer_interval": 3},
            {"no_rope_layers": [1, 0, 0, 1], "no_rope_layer_interval": 2},
        ),
    ),
    family(
        "granite",
        count=4,
        settings=GRANITE,
        head_dim=HEAD_DIM,
        biases=(
            {"attention_bias": True},
            {"mlp_bias": True},
            {"attention_bias": True, "mlp_bias": True},
            {},
        ),
    ),
    family(
        Case(model_type="granitemoe", stored_as=named_by_granite),
        count=3,
        settings=GRANITE | {"experts of a token": PER_TOKEN},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
        experts=LOCAL_EXPERTS,
    ),
    family(
        "glm",
        count=5,
        settings={"epsilon": EPSILON, "rope": PARTS},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family(
        "glm4",
        count=4,
        settings={"epsilon": EPSILON, "rope": PARTS},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family(
        "starcoder2",
        count=3,
        settings={
            "epsilon": each("norm_epsilon", 1e-2, 1e-6),
            "activation": MLP,
            "window": WINDOW,
            "rope": ROPE,
        },
        head_dim=HEAD_DIM,
        biases=each("use_bias", True, False),
    ),
    family(
        "olmo2",
        count=4,
        settings=DENSE | {"activation": MLP},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family(
        "olmo3",
        count=4,
        settings={
            "epsilon": EPSILON,
            "rope": TWO_ROPES,
            "activation": MLP,
            "window": LOCAL_WINDOW,
            "kinds of layers": LAYERS,
        },
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family(
        Case(model_type="gemma2", draw=weights_less_one),
        count=3,
        settings=GEMMA
        | {"rope": ROPE, "bound of scores": each("attn_logit_softcapping", 0.5, None, 2.0)},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family(
        Case(model_type="gemma3_text", draw=weights_less_one),
        count=4,
        settings=GEMMA | {"rope": TWO_ROPES},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
    ),
    family("cohere", count=5, settings=COHERE, biases=ATTENTION_BIAS),
    family(
        "cohere2",
        count=4,
        settings=COHERE | {"window": LOCAL_WINDOW},
        biases=(
            {"attention_bias": True, "layer_types": [LOCAL] * 4},
            {"layer_types": [FULL, LOCAL, LOCAL, FULL]},
            {"sliding_window_pattern": 2},
        ),
    ),
    family(
        "mixtral",
        count=3,
        settings=DENSE | {"window": WINDOW, "experts of a token": PER_TOKEN},
        head_dim=HEAD_DIM,
        experts=LOCAL_EXPERTS,
    ),
    family(
        "olmoe",
        count=3,
        settings=DENSE | SHARES,
        biases=ATTENTION_BIAS,
        experts=(
            {"num_experts": 4, "intermediate_size": 40},
            {"num_experts": 6, "intermediate_size": 24},
        ),
    ),
    family(
        Case(model_type="qwen2_moe", draw=gate_is_sure),
        count=3,
        settings=DENSE | SHARES,
        biases=each("qkv_bias", True, False),
        layers=DENSE_LAYERS,
        experts=SHARED_EXPERTS,
    ),
    family(
        "qwen3_moe",
        count=2,
        settings=DENSE
        | SHARES
        | {
            "window": [
                {"use_sliding_window": True} | window for window in each("sliding_window", 13, 29)
            ]
        },
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
        layers=DENSE_LAYERS,
        experts=QWEN_EXPERTS,
    ),
    family(
        "glm4_moe",
        count=3,
        settings=ROUTING
        | SHARES
        | {"groups of experts": GROUPS, "epsilon": EPSILON, "rope": PARTS},
        head_dim=HEAD_DIM,
        biases=ATTENTION_BIAS,
        norms=each("use_qk_norm", True, False),
        experts=ROUTED,
    ),
    family(
        Case(model_type="deepseek_v2", changes=LATENT),
        count=3,
        settings=DEEPSEEK
        | {
            "groups of experts": [
                {"topk_method": "group_limited_greedy"} | GROUPS[0],
                {"topk_method": "greedy", "n_group": None, "topk_group": None},
            ]
        },
        shape=LATENT_SHAPES,
        biases=ATTENTION_BIAS,
        ranks=RANKS,
        experts=ROUTED,
    ),
    family(
        Case(model_type="deepseek_v3", changes=LATENT),
        count=3,
        settings=DEEPSEEK
        | SHARES
        | {"groups of experts": GROUPS, "pairs": each("rope_interleave", True, False)},
        shape=LATENT_SHAPES,
        biases=ATTENTION_BIAS,
        ranks=RANKS,
        experts=ROUTED,
    ),
    family(
        Case(model_type="qwen3_5_text", draw=draw, logits_atol=NOISE),
        count=5,
        settings=DELTA,
        head_dim=HEAD_DIM,
        layers=DELTA_LAYERS,
        nets=NETS,
    ),
    family(
        Case(model_type="qwen3_next", draw=drawn),
        count=2,
        settings=DELTA | SHARES | {"epsilon": each("rms_norm_eps", 5e-2, 1e-3)},
        head_dim=HEAD_DIM,
        layers=DELTA_LAYERS,
        nets=NETS,
        experts=SHARED_EXPERTS,
    ),
    family(
        Case(model_type="qwen3_5_moe_text", draw=drawn),
        count=3,
        settings=DELTA
        | {"experts of a token": PER_TOKEN, "epsilon": each("rms_norm_eps", 5e-2, 1e-3)},
        head_dim=HEAD_DIM,
        layers=DELTA_LAYERS,
        nets=NETS,
        experts=SHARED_EXPERTS,
    ),
)
CASES = {
    f"{draws.like.model_type}-{number}": case
    for draws in DRAWS
    for number, case in enumerate(draws.cases())
}
