# SPDX-License-Identifier: Apache-2.0
"""Which Hugging Face ``model_type`` this package can train, one file each. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megacpt.config.sections import RopeConfig
from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.context import stretched
from megacpt.families.dense import granite, llama, ministral3, mistral, phi3, qwen2, qwen3, smollm3
from megacpt.families.hf_config import HfConfig
from megacpt.families.mixtures import (
    deepseek_v2,
    deepseek_v3,
    glm4_moe,
    gpt_oss,
    granitemoe,
    llama4_text,
    mixtral,
    olmoe,
    qwen2_moe,
    qwen3_moe,
)
from megacpt.families.recurrent import qwen3_5, qwen3_5_moe, qwen3_next
from megacpt.families.reshaped import (
    cohere,
    cohere2,
    gemma2,
    gemma3_text,
    glm,
    glm4,
    olmo2,
    olmo3,
    starcoder2,
)
from megacpt.families.stored.nearest import unknown_family
from megacpt.families.stored.nested import text_of
from megacpt.families.weights import Param, Part, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How to read a family's config.json, and its weights."""

    read: Callable[[HfConfig], Architecture]
    params: tuple[Param, ...]
    parts: Callable[[Architecture], Mapping[str, Part]] = lambda _: {}
    """Tensors that some folders hold as parts of larger ones."""
    fused: bool = False
    """All folders do, so that an export does, too; of optional parts, if the base model does."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that Llama's calls otherwise, by Llama's."""


FAMILIES = {
    cohere.MODEL_TYPE: Family(read=cohere.read, params=cohere.PARAMS, names=cohere.NAMES),
    cohere2.MODEL_TYPE: Family(read=cohere2.read, params=cohere2.PARAMS, names=cohere2.NAMES),
    deepseek_v2.MODEL_TYPE: Family(
        read=deepseek_v2.read, params=deepseek_v2.PARAMS, parts=deepseek_v2.parts
    ),
    deepseek_v3.MODEL_TYPE: Family(
        read=deepseek_v3.read, params=deepseek_v3.PARAMS, parts=deepseek_v3.parts
    ),
    gemma2.MODEL_TYPE: Family(read=gemma2.read, params=gemma2.PARAMS, names=gemma2.NAMES),
    gemma3_text.MODEL_TYPE: Family(
        read=gemma3_text.read, params=gemma3_text.PARAMS, names=gemma3_text.NAMES
    ),
    glm.MODEL_TYPE: Family(read=glm.read, params=glm.PARAMS, parts=glm.parts, fused=True),
    glm4.MODEL_TYPE: Family(read=glm4.read, params=glm4.PARAMS, parts=glm4.parts, fused=True),
    glm4_moe.MODEL_TYPE: Family(read=glm4_moe.read, params=glm4_moe.PARAMS, parts=glm4_moe.parts),
    gpt_oss.MODEL_TYPE: Family(
        read=gpt_oss.read, params=gpt_oss.PARAMS, parts=gpt_oss.parts, fused=True
    ),
    granite.MODEL_TYPE: Family(read=granite.read, params=granite.PARAMS),
    granitemoe.MODEL_TYPE: Family(
        read=granitemoe.read, params=granitemoe.PARAMS, parts=granitemoe.parts, fused=True
    ),
    llama.MODEL_TYPE: Family(read=llama.read, params=llama.PARAMS),
    llama4_text.MODEL_TYPE: Family(
        read=llama4_text.read, params=llama4_text.PARAMS, parts=llama4_text.parts, fused=True
    ),
    ministral3.MODEL_TYPE: Family(read=ministral3.read, params=ministral3.PARAMS),
    mistral.MODEL_TYPE: Family(read=mistral.read, params=mistral.PARAMS),
    mixtral.MODEL_TYPE: Family(read=mixtral.read, params=mixtral.PARAMS, parts=mixtral.parts),
    olmo2.MODEL_TYPE: Family(read=olmo2.read, params=olmo2.PARAMS),
    olmo3.MODEL_TYPE: Family(read=olmo3.read, params=olmo3.PARAMS),
    olmoe.MODEL_TYPE: Family(read=olmoe.read, params=olmoe.PARAMS, parts=olmoe.parts),
    phi3.MODEL_TYPE: Family(read=phi3.read, params=phi3.PARAMS, parts=phi3.parts, fused=True),
    qwen2.MODEL_TYPE: Family(read=qwen2.read, params=qwen2.PARAMS),
    qwen2_moe.MODEL_TYPE: Family(
        read=qwen2_moe.read, params=qwen2_moe.PARAMS, parts=qwen2_moe.parts
    ),
    qwen3.MODEL_TYPE: Family(read=qwen3.read, params=qwen3.PARAMS),
    qwen3_5.MODEL_TYPE: Family(
        read=qwen3_5.read, params=qwen3_5.PARAMS, parts=qwen3_5.parts, fused=True
    ),
    qwen3_5_moe.MODEL_TYPE: Family(
        read=qwen3_5_moe.read, params=qwen3_5_moe.PARAMS, parts=qwen3_5_moe.parts, fused=True
    ),
    qwen3_moe.MODEL_TYPE: Family(
        read=qwen3_moe.read, params=qwen3_moe.PARAMS, parts=qwen3_moe.parts
    ),
    qwen3_next.MODEL_TYPE: Family(
        read=qwen3_next.read, params=qwen3_next.PARAMS, parts=qwen3_next.parts, fused=True
    ),
    smollm3.MODEL_TYPE: Family(read=smollm3.read, params=smollm3.PARAMS),
    starcoder2.MODEL_TYPE: Family(
        read=starcoder2.read, params=starcoder2.PARAMS, names=starcoder2.NAMES
    ),
}


def read_architecture(folder: Path | str, *, rope: RopeConfig | None = None) -> Architecture:
    """The architecture that a Hugging Face folder's config.json states, with another ``rope`` where
    a run sets one."""
    config = HfConfig.read(Path(folder))
    config = text_of(config) or config
    model_type = config.values.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise unknown_family(config, families=FAMILIES)
    architecture = family.read(config)
    if architecture.num_heads % architecture.num_kv_heads != 0:
        raise ModelError(
            f"{config.path}: num_key_value_heads={architecture.num_kv_heads} must divide "
            f"num_attention_heads={architecture.num_heads}; download the model again."
        )
    return stretched(architecture, by=rope) if rope else architecture


def family_of(architecture: Architecture) -> Family:
    return FAMILIES[architecture.family]


def param_rows(architecture: Architecture) -> tuple[Param, ...]:
    """The weights this architecture has, in model order."""
    return tuple(p for p in family_of(architecture).params if p.present(architecture))


def table_row(architecture: Architecture, *, role: Role) -> Param:
    """The row of the embedding or of the head, which a tied model has no weight for."""
    return next(row for row in family_of(architecture).params if row.role is role)


def has_equal_layers(architecture: Architecture) -> bool:
    """Whether every layer has the same weights, those of an adapter among them."""
    layers = [row.layers(architecture) for row in param_rows(architecture) if row.per_layer]
    if architecture.adapter is not None:
        layers.append(architecture.adapter.layers)
    return all(len(numbers) == architecture.num_layers for numbers in layers)
