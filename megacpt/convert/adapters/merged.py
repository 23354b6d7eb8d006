# SPDX-License-Identifier: Apache-2.0
"""An adapter added to the model that it was trained beside: computed in float32, a few rows of one
tensor at a time.

Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from megacpt.convert.adapters.plain import computed, plain_lora
from megacpt.convert.sources import SourceModel, SourceTensor
from megacpt.families.adapter import MAGNITUDE, A, B, Updated, factor_name, updated
from megacpt.families.architecture import Adapter


def merged(source: SourceModel, *, base: SourceModel) -> SourceModel:
    """``source``: of an adapter. Tensors that it has no part in keep their type; a tied head is
    the embedding as before."""
    trained = plain_lora(source)
    adapter = trained.architecture.adapter
    assert adapter is not None
    tensors = dict(base.tensors)
    for each in updated(trained.architecture):
        tensors[each.weight] = _added(
            base.tensors[each.weight], each=each, trained=trained, adapter=adapter
        )
    beside = {name: held for name, held in trained.tensors.items() if ".lora_" not in name}
    return replace(
        base,
        folder=source.folder,
        tensors=tensors | {name: held.of_type(torch.float32) for name, held in beside.items()},
        proving=source.proving,
    )


def _added(
    weight: SourceTensor, *, each: Updated, trained: SourceModel, adapter: Adapter
) -> SourceTensor:
    a = trained.tensors[factor_name(each.module, factor=A)]
    b = trained.tensors[factor_name(each.weight, factor=B)]
    sizes = trained.tensors.get(factor_name(each.weight, factor=MAGNITUDE))

    def rows(first: int, *, count: int) -> torch.Tensor:
        w_OI, b_OR = (t.rows(first, count=count).float() for t in (weight, b))
        w_OI.addmm_(b_OR, a.whole().float(), alpha=adapter.scale)
        if sizes is not None:
            wanted_O = sizes.rows(first, count=count).float()
            w_OI *= (wanted_O / torch.linalg.vector_norm(w_OI, dim=1)).unsqueeze(1)
        return w_OI

    return computed(weight.shape, rows=rows)
