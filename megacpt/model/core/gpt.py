# SPDX-License-Identifier: Apache-2.0
"""The model on megatron-core's GPTModel."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from megacpt.model.core.common import CommonModel


class OnGpt(CommonModel, GPTModel):  # type: ignore[misc]
    """One virtual pipeline stage."""

    def __init__(self, *, layers: TransformerBlockSubmodules, **kwargs: Any) -> None:
        super().__init__(transformer_layer_spec=layers, **kwargs)
