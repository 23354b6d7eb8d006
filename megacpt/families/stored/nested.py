# SPDX-License-Identifier: Apache-2.0
"""Models of several parts (text and images): the config of the text model inside, which is trained.
Free of torch.

``config.json`` says the text model's sizes in ``text_config``, and the folder holds its tensors
behind a prefix of their own (``megacpt.families.stored.naming``). In text alone such a model is the
text model: positions in two dimensions (mrope) are those of the token in each, and so plain rope.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.files import stored_names

INNER = "text_config"
TIED = "tie_word_embeddings"
ROPE_KEYS = ("rope_scaling", "rope_parameters")
_HEAD = "lm_head.weight"
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
OUTER: Mapping[str, str] = {
    "gemma3": "gemma3_text",
    "idefics3": "llama",
    "internvl": "qwen2",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "smolvlm": "llama",
    "vipllava": "llama",
}
"""Model types of several parts, with that of the text where ``text_config`` does not state it."""
SAME_AS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text models that are another family's by another name."""
_TIED_UNLESS_STATED = ("gemma3", "internvl", "mistral3")
_QWEN2_VL = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
}
_SIZES = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_SIZES, "intermediate_size": 11008, "vocab_size": 32000},
    "mistral": {**_SIZES, "intermediate_size": 14336, "vocab_size": 32000},
    "qwen2": {**_SIZES, "intermediate_size": 22016, "vocab_size": 151936},
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), _QWEN2_VL),
    "qwen3_vl_text": {"rope_theta": 5e5, "max_position_embeddings": 128000},
}
"""What transformers takes where ``text_config`` leaves it out, as those of LLaVA leave out sizes; a
folder of the text model alone without them is incomplete."""


def text_of(config: HfConfig) -> HfConfig | None:
    """The config of the text model in a model of several parts, as its family reads it; ``None``
    for any other model."""
    outer = str(config.values.get("model_type"))
    if outer not in OUTER:
        return None
    inner = stated_text(config)
    own = str(inner.get("model_type") or OUTER[outer])
    if INNER not in config.values:  # Qwen2-VL's first folders: all sizes stand on top.
        own = OUTER[outer]
    values = {
        **DEFAULTS.get(own, {}),
        **{key: config.values.get(key) for key in _SPECIAL},
        **{key: value for key, value in inner.items() if value is not None},
        **{key: plain_rope(inner[key]) for key in ROPE_KEYS if inner.get(key)},
        "model_type": SAME_AS.get(own, own),
    }
    tied = _is_tied(config, inner=inner)
    return HfConfig(path=config.path, values=values if tied is None else {**values, TIED: tied})


def stated_text(config: HfConfig) -> Mapping[str, Any]:
    """What config.json says of the text model."""
    inner = config.values.get(INNER)
    return inner if isinstance(inner, dict) else config.values


def plain_rope(stated: Any) -> Any:
    """Rope of text alone, where positions have several dimensions."""
    if not isinstance(stated, dict) or not any(key.startswith("mrope") for key in stated):
        return stated
    return {
        key: "default" if value == "mrope" else value
        for key, value in stated.items()
        if not key.startswith("mrope")
    }


def _is_tied(config: HfConfig, *, inner: Mapping[str, Any]) -> bool | None:
    """What the whole model's config, which transformers 5 reads, and that of its text, which 4
    reads, say alike; else whether no head is stored. ``None``: as the family does."""
    top, inside = (values.get(TIED) for values in (config.values, inner))
    by_default = top is None and config.values.get("model_type") in _TIED_UNLESS_STATED
    stated = {value for value in (by_default or top, inside) if value is not None}
    if not stated:
        return None
    if len(stated) == 1 and not (by_default and inside is None):
        return bool(stated.pop())
    names = stored_names(config.path.parent)
    return names is None or not any(name.endswith(_HEAD) for name in names)
