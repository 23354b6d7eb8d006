# SPDX-License-Identifier: Apache-2.0
"""The model of megatron-core that the builder stands on: HybridModel where there is one.

megatron-core 0.16 has GPTModel alone; 0.18 has both, and 0.19 calls GPTModel deprecated. Either is
given the same layers, has the same names of weights and computes the same bits.
"""

from __future__ import annotations

from importlib.util import find_spec

from megacpt.model.core.common import CommonModel

Model: type[CommonModel]
if find_spec("megatron.core.models.hybrid") is None:
    from megacpt.model.core.gpt import OnGpt as Model
else:
    from megacpt.model.core.hybrid import OnHybrid as Model

__all__ = ["Model"]
