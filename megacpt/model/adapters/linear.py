# SPDX-License-Identifier: Apache-2.0
"""megatron-core's column- and row-parallel layers with a frozen weight and a low-rank update.

How the output is cut, gathered or summed stays megatron-core's: the update is added to a rank's own
product, so it needs no communication in the forward pass. A factor that is whole on each rank gets
a part of its gradient on each; these are summed in the backward pass. Shapes as in product.py; M
modules are packed into one weight, each of rank R / M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch.nn.functional import dropout

from megacpt.families.adapter import A_START, ADAPTER, B_START, CORE, MAGNITUDE, A, B, Linear
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.weights import Grouping
from megacpt.model.adapters.product import adapted_product
from megacpt.model.frozen.packed import Packed
from megacpt.model.layers.own_product import OwnProduct
from megacpt.model.quantise.linear import QuantisedLayer


class Factors(torch.nn.Module):
    """The tensors of one native layer's adapter, as its rows name them."""

    norm_O: torch.Tensor | None = None
    """Of the rows of weight and update, where they are kept because neither changes."""
    keeps_norm = False
    rows_o: torch.Tensor | None
    """Of B and magnitude, which rows of the native weight theirs are; ``None``: all, in order."""
    modules_o: torch.Tensor
    """And of which module."""

    def __init__(
        self, linear: Linear, *, architecture: Architecture, dtype: torch.dtype, group: Any
    ) -> None:
        """``group``: of the ranks that the weight is cut over."""
        super().__init__()
        assert architecture.adapter is not None
        self.linear, self.architecture = linear, architecture
        self.group, self.tp = group, group.size()
        self.adapter: Adapter = architecture.adapter
        for row in linear.factors:
            shapes = [list(source.shape(architecture)) for source in row.sources]
            shape = [sum(first for first, *_ in shapes), *shapes[0][1:]]
            if row.tp_dim is not None:
                shape[row.tp_dim] //= self.tp
            empty = torch.empty(shape, dtype=dtype)
            self.register_parameter(row.native.rpartition(".")[2], torch.nn.Parameter(empty))
        self._number_rows()

    @property
    def of_row(self) -> bool:
        """The ranks have parts of the layer's inputs, not of its outputs."""
        return self.linear.row.tp_dim == 1

    @property
    def is_added_to(self) -> bool:
        """The layer's output gets the other ranks', or an expert's bias."""
        return self.of_row and (self.tp > 1 or self.linear.row.per_expert)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """a_RI, b_OR and DoRA's sizes of the rows; asked for by a call, whose hooks gather what an
        update has changed."""
        return self._inner(), self._outer(), self._sizes()

    def shared(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The same, where each rank's gradient of what every rank has is a part of the whole."""
        a_RI, b_OR, magnitude_O = self()
        if not self.of_row:
            return self._summed(a_RI), b_OR, magnitude_O
        sizes_O = None if magnitude_O is None else self._summed(magnitude_O)
        return a_RI, self._summed(b_OR), sizes_O

    def gain(
        self,
        weight: torch.Tensor | Packed,
        *,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        magnitude_O: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """The trained sizes of the rows over those that weight and update have now, which count as
        constants (DoRA, section 4.3, https://arxiv.org/abs/2402.09353)."""
        if magnitude_O is None:
            return None
        norm_O = self.norm_O
        if norm_O is None:
            w_OI = weight.dense(torch.float32) if isinstance(weight, Packed) else weight.float()
            norm_O = self._norm(w_OI, a_RI=a_RI, b_OR=b_OR)
            self.norm_O = norm_O if self.keeps_norm else None
        gain_O = magnitude_O.float() / norm_O
        return torch.where(gain_O.isnan(), 1.0, gain_O).to(magnitude_O.dtype)

    @torch.no_grad()
    def _norm(self, w_OI: torch.Tensor, *, a_RI: torch.Tensor, b_OR: torch.Tensor) -> torch.Tensor:
        """Without ever making the sum: |w|^2 + 2 b (a w^T) + b (a a^T) b^T, row by row, float32."""
        a_RI, b_OR = a_RI.float(), b_OR.float()
        squares_O = w_OI.square().sum(1)
        squares_O += (b_OR * (2 * (w_OI @ a_RI.t()) + b_OR @ (a_RI @ a_RI.t()))).sum(1)
        if self.of_row and self.tp > 1:
            torch.distributed.all_reduce(squares_O, group=self.group)
        return squares_O.sqrt()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Each is cut as its row says."""
        rows = {row.native.rpartition(".")[2]: row for row in self.linear.factors}
        found: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {name: row.tp_dim for name, row in rows.items() if row.tp_dim is not None},
            sharded_offsets,
            tp_group=self.group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        for name, row in rows.items():
            # The ranks' gate rows lie before all of their up rows, as megatron-core has the weight.
            if row.tp_dim == 0 and row.grouping is Grouping.once and len(row.sources) > 1:
                key = f"{prefix}{name}"
                found[key] = apply_swiglu_sharded_factory(found[key], sharded_offsets)
        return found

    def _summed(self, whole: torch.Tensor) -> torch.Tensor:
        """Its gradient is the sum of the ranks'."""
        summed: torch.Tensor = copy_to_tensor_model_parallel_region(whole, group=self.group)
        return summed

    def _inner(self) -> torch.Tensor:
        """PiSSA's first values are below."""
        a_RI: torch.Tensor = getattr(self, A)
        return torch.cat([a_RI, getattr(self, A_START)]) if self.adapter.has_start else a_RI

    def _outer(self) -> torch.Tensor:
        """Times the scale: a module's rows have its own columns, zeros in all others."""
        wide = self._spread(getattr(self, B))
        if self.adapter.has_core:
            core: torch.Tensor = getattr(self, CORE)
            # Beside a cut factor its gradient is a part.
            whole = core if self.of_row else self._summed(core)
            cores = torch.split(whole, self.adapter.rank)
            wide = wide @ torch.block_diag(*cores)  # type: ignore[no-untyped-call]
        if self.adapter.has_start:
            wide = torch.cat([wide, -self._spread(getattr(self, B_START))], dim=1)
        return wide * self.adapter.scale

    def _spread(self, b_or: torch.Tensor) -> torch.Tensor:
        """Of the rows that the modules have, as one tensor, those of the whole native weight."""
        if self.rows_o is None:
            return b_or
        wide_OMr = b_or.new_zeros(self.num_rows, len(self.linear.modules), b_or.shape[1])
        return wide_OMr.index_put((self.rows_o, self.modules_o), b_or).flatten(1)

    def _sizes(self) -> torch.Tensor | None:
        """DoRA's, of all rows of the native weight; NaN where no module has one."""
        sizes_o: torch.Tensor | None = getattr(self, MAGNITUDE, None)
        if sizes_o is None or self.rows_o is None:
            return sizes_o
        wide_O = sizes_o.new_full((self.num_rows,), torch.nan)
        return wide_O.index_put((self.rows_o,), sizes_o)

    def _number_rows(self) -> None:
        """Once, as every forward pass asks for it."""
        row, sources = self.linear.row, self.linear.sources
        tp = 1 if self.of_row else self.tp
        self.num_rows = sum(s.shape(self.architecture)[0] for s in row.sources) // tp
        self.register_buffer("rows_o", None, persistent=False)
        if sources == row.sources and len(self.linear.modules) == 1:
            return
        views = row.views(torch.arange(self.num_rows), architecture=self.architecture, tp=tp)
        into = dict(zip(row.sources, views, strict=True))
        outer = next(f for f in self.linear.factors if f.native.endswith(f".{B}"))
        rows_o = torch.empty(len(getattr(self, B)), dtype=torch.long)
        modules_o = torch.empty_like(rows_o)
        rows, modules = (
            outer.views(each, architecture=self.architecture, tp=tp) for each in (rows_o, modules_o)
        )
        for number, source in enumerate(sources):
            rows[number].copy_(into[source])
            modules[number].fill_(self.linear.module_of[number])
        self.register_buffer("rows_o", rows_o, persistent=False)
        self.register_buffer("modules_o", modules_o, persistent=False)


class Adapted(torch.nn.Module):
    """What is laid over a linear layer of megatron-core."""

    adapter: Factors
    config: Any

    def add_factors(self, linear: Linear, *, architecture: Architecture) -> None:
        """Their values are undefined."""
        # Transformer Engine's own name is empty where it is not to communicate.
        group = getattr(self, "_tp_group", None) or self.tp_group
        dtype = self.config.params_dtype
        self.adapter = Factors(linear, architecture=architecture, dtype=dtype, group=group)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """megatron-core's, where each factor is cut as its row says."""
        found: dict[str, Any] = super().sharded_state_dict(  # type: ignore[misc]
            prefix, sharded_offsets, metadata
        )
        of_adapter = f"{prefix}{ADAPTER}."
        return found | self.adapter.sharded_state_dict(of_adapter, sharded_offsets, metadata)


class AdaptedLayer(Adapted, OwnProduct):
    """What is laid over a plain layer."""

    def own_product(self, x: torch.Tensor, *, weight: torch.Tensor | Packed) -> torch.Tensor:
        a_RI, b_OR, magnitude_O = self.adapter.shared()
        gain_O = self.adapter.gain(weight, a_RI=a_RI, b_OR=b_OR, magnitude_O=magnitude_O)
        rate = self.adapter.adapter.dropout if self.training else 0.0
        low = dropout(x, rate) if rate else None
        if isinstance(self, QuantisedLayer) and isinstance(weight, torch.Tensor):
            y = self.product(x, w_OI=weight, training=self.training)
            y = y + adapted_product(x, weight=None, a_RI=a_RI, b_OR=b_OR, low=low)
            y = y if gain_O is None else y * gain_O
        else:
            y = adapted_product(x, weight=weight, a_RI=a_RI, b_OR=b_OR, gain_O=gain_O, low=low)
            if gain_O is not None and self.adapter.is_added_to:
                # In place, and the gain's gradient needs this rank's own.
                y = y.clone()
        return y


@contextmanager
def unchanging_norms(chunks: Sequence[Any]) -> Iterator[None]:
    """Inside, no weight changes, so that norms are computed once."""
    every = [m for chunk in chunks for m in chunk.modules() if isinstance(m, Factors)]
    for factors in every:
        factors.keeps_norm = True
    try:
        yield
    finally:
        for factors in every:
            factors.keeps_norm, factors.norm_O = False, None
