# SPDX-License-Identifier: Apache-2.0
"""Small random models of text and images, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import BASE, VOCAB_SIZE

TEXT: dict[str, Any] = {**BASE, "num_hidden_layers": 2, "num_key_value_heads": 2, "rope_theta": 5e5}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_CLIP = {"vision_config": _VISION | {"model_type": "clip_vision_model", "projection_dim": 16}}
_SIGLIP = {"vision_config": _VISION | {"model_type": "siglip_vision_model"}}
_QWEN2_VISION = {"depth": 1, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 48}
_QWEN2_5_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 48,
    "fullatt_block_indexes": [0],
}
_QWEN3_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 48,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
_LLAMA4_VISION = _VISION | {
    "vision_output_dim": 16,
    "projector_input_dim": 16,
    "projector_output_dim": 16,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 5e5}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 5e5,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
    "llama_4_scaling_beta": 0.5,
}
_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "head_dim": 16,
    "num_hidden_layers": 4,
    # With a small one transformers' own noise is larger than what a test may allow.
    "rms_norm_eps": 5e-2,
}
_IDS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5}
_MIXTURE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "full_attention_interval": 2,
}


def _text(model_type: str, **changes: Any) -> dict[str, Any]:
    return {"text_config": TEXT | {"model_type": model_type} | changes}


_QWEN3_5_MOE = {
    **_text(
        "qwen3_5_moe_text",
        rope_parameters=_MROPE | {"partial_rotary_factor": 0.5},
        **(_NET | _MIXTURE),
    ),
    "vision_config": _QWEN3_VISION | {"deepstack_visual_indexes": []},
    **_IDS,
}


CASES: dict[str, dict[str, Any]] = {
    "llava": {**_CLIP, **_text("llama"), "image_token_index": 3},
    "llava-tied": {**_CLIP, **_text("llama", tie_word_embeddings=True), "image_token_index": 3},
    "llava-mistral": {**_CLIP, **_text("mistral", sliding_window=None), "image_token_index": 3},
    "llava_next": {**_CLIP, **_text("llama"), "image_token_index": 3},
    "vipllava": {
        **_CLIP,
        **_text("llama"),
        "image_token_index": 3,
        "vision_feature_layers": [0],
    },
    "llava_onevision": {**_SIGLIP, **_text("qwen2"), **_IDS, "image_token_index": 3},
    "mistral3": {
        **_text("mistral", sliding_window=None, head_dim=16),
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
        "image_token_index": 3,
        "tie_word_embeddings": False,
    },
    # Tied by its own default; the config of the text says nothing of it, or that it is not.
    "mistral3-tied": {
        **_text("mistral", sliding_window=None, head_dim=16),
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
        "image_token_index": 3,
    },
    "mistral3-ministral3": {
        **_text("ministral3", sliding_window=None, head_dim=16, rope_parameters=_YARN),
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
        "image_token_index": 3,
    },
    "llama4": {
        **_text(
            "llama4_text",
            head_dim=8,
            intermediate_size_mlp=56,
            moe_layers=[1],
            num_local_experts=2,
            attention_chunk_size=16,
            no_rope_layers=[1, 0],
            floor_scale=9,
        ),
        "vision_config": _LLAMA4_VISION,
        "image_token_index": 3,
    },
    "qwen3_5": {
        **_text("qwen3_5_text", rope_parameters=_MROPE | {"partial_rotary_factor": 0.5}, **_NET),
        "vision_config": _QWEN3_VISION | {"deepstack_visual_indexes": []},
        **_IDS,
    },
    "qwen3_5_moe": _QWEN3_5_MOE,
    "qwen3_5_moe-stacked": _QWEN3_5_MOE,
    "idefics3": {
        **_text("llama"),
        "vision_config": _VISION,
        "image_token_id": 3,
        "scale_factor": 2,
        "pad_token_id": 0,
    },
    "smolvlm": {
        **_text("llama"),
        "vision_config": _VISION,
        "image_token_id": 3,
        "scale_factor": 2,
        "pad_token_id": 0,
    },
    "gemma3": {
        **_text(
            "gemma3_text",
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
            },
        ),
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 3,
    },
    "internvl": {
        **_text("qwen2"),
        "vision_config": _VISION | {"image_size": [16, 16], "patch_size": [8, 8]},
        "image_token_id": 3,
        "tie_word_embeddings": False,
    },
    "qwen2_vl": {
        **_text("qwen2_vl_text", rope_parameters=_MROPE),
        "vision_config": _QWEN2_VISION,
        **_IDS,
    },
    "qwen2_5_vl-tied": {
        **_text("qwen2_5_vl_text", rope_parameters=_MROPE, tie_word_embeddings=True),
        "vision_config": _QWEN2_5_VISION,
        **_IDS,
        "tie_word_embeddings": True,
    },
    "qwen3_vl": {
        **_text("qwen3_vl_text", head_dim=16, rope_parameters=_MROPE | {"mrope_interleaved": True}),
        "vision_config": _QWEN3_VISION,
        **_IDS,
    },
}
TOKENS_BS = torch.randint(6, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(7))
"""None of which stands for an image."""


def write_parts(folder: Path, *, case: str, **text: Any) -> Any:
    """Save a random model as transformers does, all values of its own; returns it. ``text``: other
    values of the text model. ``-stacked``: with the experts of a layer in one tensor."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(1)
    values = CASES[case] | {"text_config": CASES[case]["text_config"] | text}
    config = AutoConfig.for_model(case.partition("-")[0], **values)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for name, param in model.named_parameters():
        if param.dim() == 1:
            param.data.normal_(1.0 if "norm" in name else 0.0, 0.3)
    model = model.eval()
    model.save_pretrained(folder, save_original_format=not case.endswith("-stacked"))
    return model
