# SPDX-License-Identifier: Apache-2.0
"""A matrix in four or eight bits and the scales that lead back to its values.

Scales are float32, but held as the integers of the same bits: a model that is cast to bfloat16 has
its buffers cast too, and integers are left alone. Shapes: O outputs (rows), I inputs of a matrix.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch

from megacpt.config.sections import BaseWeights
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families.packing import NF4_BLOCK

PIECE = 2**18
"""Values that are packed at once, and that a cache holds; in between each takes twenty bytes."""
INT8_MAX = 127.0


class Packed(torch.nn.Module, ABC):
    """In place of a parameter: moves with the model, is never trained, cast or saved.

    Its room is taken when it is made. Were it taken between the whole weights that come and go,
    these would find no room twice.
    """

    codes: torch.Tensor
    scale_bits: torch.Tensor

    def __init__(self, shape: torch.Size, *, codes: torch.Tensor, scales: torch.Tensor) -> None:
        """``codes`` and ``scales`` have a row for each of the matrix; their values come later."""
        super().__init__()
        self.shape = shape
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale_bits", scales.view(torch.int32), persistent=False)

    @property
    def scales(self) -> torch.Tensor:
        return self.scale_bits.view(torch.float32)

    @abstractmethod
    def fill(self, w_OI: torch.Tensor, *, row_group: Any = None) -> None:
        """With a rank's part of a matrix; ``row_group``: the ranks among which rows are cut."""

    @abstractmethod
    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The values it stands for, O x I, rounded once."""


class Nf4(Packed):
    """Normal-float numbers (QLoRA, https://arxiv.org/abs/2305.14314), two a byte."""

    def __init__(self, shape: torch.Size) -> None:
        outputs, inputs = shape
        if inputs % NF4_BLOCK != 0:
            raise ModelError(
                f"NF4 packs {NF4_BLOCK} values of a row at a time, but a rank's rows of a matrix "
                f"have {inputs}; use another parallel.tp, or int8."
            )
        codes = torch.empty(outputs, inputs // 2, dtype=torch.uint8)
        super().__init__(shape, codes=codes, scales=torch.empty(outputs, inputs // NF4_BLOCK))

    def fill(self, w_OI: torch.Tensor, *, row_group: Any = None) -> None:
        functional = _bitsandbytes()
        for rows in _pieces(w_OI):
            codes, state = functional.quantize_4bit(
                w_OI[rows], blocksize=NF4_BLOCK, quant_type="nf4"
            )
            self.codes[rows] = codes.view_as(self.codes[rows])
            self.scales[rows] = state.absmax.view_as(self.scales[rows])

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        functional = _bitsandbytes()
        state = functional.QuantState(
            absmax=self.scales.flatten(),
            shape=self.shape,
            dtype=dtype,
            blocksize=NF4_BLOCK,
            quant_type="nf4",
        )
        values: torch.Tensor = functional.dequantize_4bit(self.codes.view(-1, 1), state)
        return values


class Int8(Packed):
    """Whole numbers relative to the largest of their row (LLM.int8(), arXiv 2208.07339)."""

    def __init__(self, shape: torch.Size) -> None:
        codes = torch.empty(shape, dtype=torch.int8)
        super().__init__(shape, codes=codes, scales=torch.empty(shape[0], 1))

    def fill(self, w_OI: torch.Tensor, *, row_group: Any = None) -> None:
        scales = w_OI.abs().amax(dim=1, keepdim=True).float()
        if row_group is not None and torch.distributed.get_world_size(row_group) > 1:
            largest = torch.distributed.ReduceOp.MAX
            torch.distributed.all_reduce(scales, op=largest, group=row_group)
        self.scales.copy_(scales)
        factors = torch.where(scales == 0.0, 0.0, INT8_MAX / scales)
        for rows in _pieces(w_OI):
            self.codes[rows] = (w_OI[rows] * factors[rows]).round_().to(torch.int8)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        values = torch.empty(self.shape, dtype=dtype, device=self.codes.device)
        scales = self.scales * (1.0 / INT8_MAX)
        for rows in _pieces(self.codes):
            values[rows] = self.codes[rows].float().mul_(scales[rows])
        return values


PACKED: Mapping[BaseWeights, Callable[[torch.Size], Packed]] = {
    BaseWeights.nf4: Nf4,
    BaseWeights.int8: Int8,
}


def _pieces(w_OI: torch.Tensor) -> Iterator[slice]:
    """Rows that are taken at once."""
    outputs, inputs = w_OI.shape
    rows = max(PIECE // inputs, 1)
    for start in range(0, outputs, rows):
        yield slice(start, start + rows)


@cache
def _bitsandbytes() -> Any:
    # On CPUs with AVX-512 it warns of a kernel for inference alone, which is not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise EnvironmentError_(
            "A base in NF4 needs the package bitsandbytes: pip install 'megacpt[nf4]'; or pack it "
            "as int8, which does not."
        ) from error
