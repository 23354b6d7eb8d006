# SPDX-License-Identifier: Apache-2.0
"""The model on megatron-core's HybridModel, which is told its layers by a pattern of symbols.

There attention and an MLP may be two entries of the pattern. Here an entry is a whole layer with
both, so that layers have the numbers, and weights the names, that GPTModel gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.models.hybrid.hybrid_layer_allocation import Symbols
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)

from megacpt.model.core.common import CommonModel


class OnHybrid(CommonModel, HybridModel):  # type: ignore[misc]
    """One virtual pipeline stage."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        layers: TransformerBlockSubmodules,
        vp_stage: int | None,
        **kwargs: Any,
    ) -> None:
        stack = ModuleSpec(
            module=Stack,
            params={"norm": layers.layer_norm, "vp_stage": vp_stage},
            submodules=HybridStackSubmodules(
                attention_layer=ModuleSpec(module=Layer, params={"specs": layers.layer_specs})
            ),
        )
        pattern = layer_pattern(config)
        with _stages_by_pattern(config):
            super().__init__(
                config=config,
                hybrid_stack_spec=stack,
                hybrid_layer_pattern=pattern,
                vp_stage=vp_stage,
                **kwargs,
            )


class Stack(HybridStack):  # type: ignore[misc]
    """Its last norm is the family's own, and is named as GPTModel names it."""

    # A weight that all layers have is saved as one tensor, not as one of each layer.
    sharded_state_dict = TransformerBlock.sharded_state_dict

    def __init__(
        self, config: TransformerConfig, *, norm: Any, vp_stage: int | None, **kwargs: Any
    ) -> None:
        super().__init__(config, post_layer_norm=False, **kwargs)
        self.vp_stage = vp_stage
        if self.post_process:
            self.final_layernorm = norm(
                config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon
            )

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden_SBD: torch.Tensor = super().forward(*args, **kwargs)
        if self.post_process:
            hidden_SBD = self.final_layernorm(hidden_SBD)
        return hidden_SBD


class Layer:
    """What HybridStack takes for the one specification of all layers: makes each by its own."""

    def __new__(
        cls,
        *,
        specs: list[ModuleSpec],
        layer_number: int,
        pp_layer_offset: int,
        config: TransformerConfig,
        pg_collection: Any,
        **_: object,
    ) -> Any:
        """``layer_number``: in the whole model, from 1; ``specs``: of this stage."""
        return build_module(
            specs[layer_number - pp_layer_offset - 1],
            config=config,
            layer_number=layer_number,
            pg_collection=pg_collection,
            add_layer_offset=False,
        )


def layer_pattern(config: TransformerConfig) -> str:
    """A symbol for each layer of the model, virtual pipeline stages set apart."""
    ranks = range(config.pipeline_model_parallel_size)
    stages = range(config.virtual_pipeline_model_parallel_size or 1)
    pattern: str = Symbols.PIPE.join(
        Symbols.ATTENTION * get_num_layers_to_build(config, stage, rank)
        for stage in stages
        for rank in ranks
    )
    return pattern


@contextmanager
def _stages_by_pattern(config: TransformerConfig) -> Iterator[None]:
    """Hide the sizes of the first and last stage: HybridModel wants to be told them by its pattern
    alone, while all else of megatron-core reads them here."""
    names = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
    kept = {name: getattr(config, name) for name in names}
    vars(config).update(dict.fromkeys(names))
    try:
        yield
    finally:
        vars(config).update(kept)
