# SPDX-License-Identifier: Apache-2.0
"""Models as Megatron-LM builds and saves them: megatron-core's GPTModel with its own layer spec,
saved by its own dist_checkpointing. No code of megacpt's but the hook that lets it run on a CPU."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "rope_parameters": {"rope_theta": 3e5, "rope_type": "default"},
    },
    "qwen2-tied": {"model_type": "qwen2", "head_dim": 8, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3"},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
}
FORMS: dict[str, dict[str, Any]] = {
    "stacked": {},
    "layers": {"non_homogeneous_layers": True},
    "singles": {"singleton_local_shards": True},
}
"""What Megatron-LM passes as the metadata of a save; older versions: nothing."""
PADDED_VOCABULARY = 256
TOKENS_BS = torch.randint(0, 131, (2, 24), generator=torch.Generator().manual_seed(5))


def write_config(folder: Path, *, model_type: str, **changes: Any) -> Any:
    """The config.json of a case, as transformers writes it."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, **(SIZES | changes))
    config.save_pretrained(folder)
    return config


def gpt_model(config: Any) -> Any:
    """Random, norms and biases far from their first values."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    model_parallel_cuda_manual_seed(3)
    experts = getattr(config, "num_experts", None)
    qk_norm = config.model_type.startswith("qwen3")
    spec = get_gpt_layer_local_spec(
        num_experts=experts, moe_grouped_gemm=False, qk_layernorm=qk_norm, normalization="RMSNorm"
    )
    torch.manual_seed(3)
    model = GPTModel(
        config=_transformer(config, qk_norm=qk_norm, experts=experts),
        transformer_layer_spec=spec,
        vocab_size=PADDED_VOCABULARY,
        max_sequence_length=64,
        position_embedding_type="rope",
        rotary_base=config.rope_parameters["rope_theta"],
        share_embeddings_and_output_weights=config.tie_word_embeddings,
    )
    for name, param in model.named_parameters():
        if param.dim() == 1:
            param.data.normal_(1.0 if "norm" in name else 0.0, 0.5)
    return model.eval()


def _transformer(config: Any, *, qk_norm: bool, experts: int | None) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    mixture = {
        "num_moe_experts": experts,
        "moe_ffn_hidden_size": getattr(config, "moe_intermediate_size", None),
        "moe_router_topk": getattr(config, "num_experts_per_tok", 2),
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "alltoall",
    }
    return TransformerConfig(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        kv_channels=getattr(config, "head_dim", None) or 8,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        normalization="RMSNorm",
        layernorm_epsilon=config.rms_norm_eps,
        add_bias_linear=False,
        add_qkv_bias=config.model_type == "qwen2",
        qk_layernorm=qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        gradient_accumulation_fusion=False,
        init_method=lambda tensor: torch.nn.init.normal_(tensor, 0.0, 0.1),
        **(mixture if experts else {}),
    )


def logits(model: Any) -> torch.Tensor:
    length = TOKENS_BS.shape[1]
    masked = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)
    positions = torch.arange(length).expand_as(TOKENS_BS)
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS_BS, positions, masked)
    return found[..., :131]


def save(model: Any, *, root: Path, form: str = "stacked", fused_norms: bool = True) -> Path:
    """As Megatron-LM's training/checkpointing.py does; returns the folder of the iteration.

    ``fused_norms=False``: a norm before experts as Transformer Engine's spec saves it.
    """
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    state = model.sharded_state_dict(metadata={**FORMS[form], "dp_cp_group": group})
    if not fused_norms:
        for name, entry in state.items():
            if isinstance(entry, ShardedTensor):
                alone = entry.key.replace("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm.")
                state[name] = replace(entry, key=alone)
    folder = root / "iter_0000010"
    folder.mkdir(parents=True)
    args = Namespace(group_query_attention=True, num_query_groups=2, num_attention_heads=6)
    args.rotary_base, args.norm_epsilon = int(model.rotary_base), 1e-3
    common = {"iteration": 10, "checkpoint_version": 3.0, "args": args}
    dist_checkpointing.save({"model": state, **common}, str(folder))
    (root / "latest_checkpointed_iteration.txt").write_text("10")
    return folder
