# SPDX-License-Identifier: Apache-2.0
"""The JSON files that describe an export, in words that every reader knows: transformers 4 and 5,
and those who read as either does. What the base model's files said only of themselves is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megacpt.config.sections import Dtype
from megacpt.families import family_of
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import FULL, GENERATION, LOCAL, STORAGE_KEYS, HfConfig
from megacpt.families.rope import BESIDE_SCALING, Rope, as_stated
from megacpt.families.stored.nested import INNER, ROPE_KEYS, TIED, stated_text, text_of
from megacpt.files import encoded

DTYPE_NAMES = {Dtype.fp32: "float32", Dtype.bf16: "bfloat16"}
TOKENIZER = "tokenizer_config.json"
_ORIGINAL = "original_max_position_embeddings"


def write_descriptions(
    source: Path, *, folder: Path, architecture: Architecture, dtype: Dtype
) -> None:
    """Write config.json, and what of the files already in ``folder`` one reader would not take."""
    config = HfConfig.read(source)
    write_json(
        folder / "config.json", content=model_config(config, architecture=architecture, dtype=dtype)
    )
    rewrite_tokenizer(folder)
    if not (folder / GENERATION).exists():
        text = text_of(config) or config
        write_json(folder / GENERATION, content=_generation(text, architecture=architecture))


def rewrite_tokenizer(folder: Path) -> None:
    """Its settings, where one reader would not take them."""
    if (folder / TOKENIZER).exists():
        stated = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        known = tokenizer_config(stated, fast=(folder / "tokenizer.json").exists())
        if known != stated:
            write_json(folder / TOKENIZER, content=known)


def model_config(config: HfConfig, *, architecture: Architecture, dtype: Dtype) -> dict[str, Any]:
    """The base model's config.json, true of plain weights and complete in both forms."""
    kept = _kept(config.values)
    text = text_of(config)
    if text is None:
        classes = _classes(kept.get("architectures"), family=architecture.family)
        described = _described(kept, config=config, architecture=architecture, dtype=dtype)
        return described | {"architectures": classes}
    stated = _kept(stated_text(config))
    inner = _described(stated, config=text, architecture=architecture, dtype=dtype)
    inner |= {TIED: architecture.tied_embeddings, **_rope_of_parts(stated, described=inner)}
    if INNER not in kept:
        return inner
    shared = {key: inner[key] for key in (TIED, "dtype", "torch_dtype")}
    return {**kept, **shared, INNER: inner}


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in STORAGE_KEYS}


def _described(
    kept: Mapping[str, Any], *, config: HfConfig, architecture: Architecture, dtype: Dtype
) -> dict[str, Any]:
    """``kept``: what was said of the model that was trained; ``config``: as its family reads it."""
    # Defaults are not the same in every reader, so that those with a default are stated.
    defaults = {
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "max_position_embeddings": architecture.max_positions,
        "rms_norm_eps": architecture.norm_eps,
        TIED: architecture.tied_embeddings,
        "hidden_act": architecture.activation,
    }
    names = family_of(architecture).names
    defaults = {names.get(key, key): value for key, value in defaults.items()}
    stated = {key: value for key, value in kept.items() if value is not None}
    return {
        **kept,
        **{key: value for key, value in defaults.items() if key not in stated},
        "max_position_embeddings": architecture.max_positions,
        **_rope(config, architecture=architecture),
        **_experts(architecture),
        **_growth(architecture),
        "dtype": DTYPE_NAMES[dtype],
        "torch_dtype": DTYPE_NAMES[dtype],
    }


def _rope(config: HfConfig, *, architecture: Architecture) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling``, all that transformers 4 reads, beside 5's
    ``rope_parameters``, which hold both."""
    whole = _parameters(config, rope=architecture.rope, layer_type=FULL)
    growth = architecture.query_growth
    if growth is not None and not growth.unrotated:
        whole["llama_4_scaling_beta"] = growth.rate
        whole[_ORIGINAL] = growth.original_max_positions
    known = {"rope_theta": architecture.rope_theta, "rope_scaling": _as_4_reads(whole)}
    if architecture.rotary_share != 1.0:
        known["partial_rotary_factor"] = architecture.rotary_share
    original = getattr(architecture.rope_scaling, "original_max_positions", None)
    if original is not None and (whole["rope_type"] == "longrope" or _ORIGINAL in config.values):
        known[_ORIGINAL] = original
    if architecture.local_rope is None:
        return {**known, "rope_parameters": whole}
    local = _parameters(config, rope=architecture.local_rope, layer_type=LOCAL)
    return {
        **known,
        "rope_local_base_freq": architecture.local_rope.theta,
        "rope_parameters": {FULL: whole, LOCAL: local},
    }


def _parameters(config: HfConfig, *, rope: Rope, layer_type: str) -> dict[str, Any]:
    kind, stated = config.stated_rope(layer_type)
    own = {} if rope.scaling is None else as_stated(rope.scaling)
    if kind == own.get("rope_type") or (
        not own and _stretches_nothing(config, layer_type=layer_type)
    ):
        found = {**stated, **own, "rope_type": kind}
    else:
        # The run has set another.
        beside = {key: stated[key] for key in BESIDE_SCALING if key in stated}
        found = {"rope_type": "default", **beside, **own}
    if rope.share != 1.0:
        found["partial_rotary_factor"] = rope.share
    return {**found, "rope_theta": rope.theta}


def _stretches_nothing(config: HfConfig, *, layer_type: str) -> bool:
    return config.rope(layer_type=layer_type, may_be_partial=True).scaling is None


def _as_4_reads(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Phi-3's of 4 counts the keys: the kind as ``type`` and the two lists of divisors."""
    beside = {"rope_theta", "partial_rotary_factor"}
    kind = parameters["rope_type"]
    if kind == "default":
        return None
    if kind == "longrope":
        beside |= {"rope_type", _ORIGINAL}
        parameters = {**parameters, "type": kind}
    return {key: value for key, value in parameters.items() if key not in beside}


def _rope_of_parts(stated: Mapping[str, Any], *, described: Mapping[str, Any]) -> dict[str, Any]:
    """What rope has for images beside text, with the rope of the text."""
    ropes = (stated.get(key) or {} for key in ROPE_KEYS)
    mrope = {k: v for rope in ropes for k, v in rope.items() if k.startswith("mrope")}
    if not mrope:
        return {}
    return {key: {"rope_type": "default", **(described[key] or {}), **mrope} for key in ROPE_KEYS}


def _experts(architecture: Architecture) -> dict[str, int]:
    """Qwen3-MoE's ``num_experts`` is written as ``num_local_experts`` by 5.23; up to 5.0 those who
    find that name alone take 128."""
    if architecture.experts is None:
        return {}
    return dict.fromkeys(("num_experts", "num_local_experts"), architecture.experts.num)


def _growth(architecture: Architecture) -> dict[str, Any]:
    """Llama 4's first folders have a number for the flag, which 5 refuses. vLLM looks for
    Ministral's in Mistral's own words alone."""
    growth = architecture.query_growth
    if growth is None:
        return {}
    if not growth.unrotated:
        return {"llama_4_scaling": {"beta": growth.rate, _ORIGINAL: growth.original_max_positions}}
    return {
        "attn_temperature_tuning": True,
        "attn_scale": growth.rate,
        "floor_scale": growth.original_max_positions,
    }


def _classes(stated: object, *, family: str) -> list[str]:
    """The class that was trained; another one's head is not in the export."""
    names = [str(name) for name in stated] if isinstance(stated, list) else []
    if causal := [name for name in names if name.endswith("ForCausalLM")]:
        return causal
    # Slow to import, and seldom needed.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])]


def _generation(config: HfConfig, *, architecture: Architecture) -> dict[str, Any]:
    """All special tokens that config.json lists, else the family's own."""
    own = {
        "bos_token_id": architecture.bos_id,
        "eos_token_id": architecture.eos_id,
        "pad_token_id": architecture.pad_id,
    }
    ids = {key: config.values[key] if config.token_ids(key) else own[key] for key in own}
    stated = {key: value for key, value in ids.items() if value is not None}
    return {"_from_model_config": True, **stated}


def tokenizer_config(stated: Mapping[str, Any], *, fast: bool) -> dict[str, Any]:
    """``fast``: there is a tokenizer.json, which holds all where transformers 5 has written it.

    4 does not know the class of that name in 5, TokenizersBackend; and one of a name that both know
    builds parts anew in 4: LlamaTokenizer always puts BOS in front. PreTrainedTokenizerFast reads
    tokenizer.json as it is in both. The list of further special tokens was renamed in 5, which
    reads the old name; 4 takes the new one for an object.
    """
    config = dict(stated)
    of_5 = config.get("backend") == "tokenizers" and "auto_map" not in config
    if fast and (of_5 or str(config.get("tokenizer_class")).endswith("Backend")):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        extra = config.pop("extra_special_tokens")
        known = config.get("additional_special_tokens") or []
        config["additional_special_tokens"] = [*known, *(t for t in extra if t not in known)]
    return config


def write_json(path: Path, *, content: Mapping[str, Any]) -> None:
    path.write_bytes(encoded(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))
