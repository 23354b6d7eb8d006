# SPDX-License-Identifier: Apache-2.0
"""How layers of megacpt's own are saved, whose weights the ranks cut."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint


class CutByHeads(torch.nn.Module):
    """All its weights have an equal part for each head, along their first dimension."""

    def sharded_state_dict(
        self, prefix: str = "", *, sharded_offsets: Any = (), metadata: Any = None
    ) -> Any:
        """As megacpt's checkpoints and megatron-core's take it."""
        own = self.state_dict(keep_vars=True)
        return make_sharded_tensors_for_checkpoint(
            own,
            prefix,
            dict.fromkeys(own, 0),
            sharded_offsets,
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=metadata["dp_cp_group"],
        )
