# SPDX-License-Identifier: Apache-2.0
"""A matrix in four or eight bits and the scales that lead back to its values.

Scales are float32, but held as the integers of the same bits: a model that is cast to bfloat16 has
its buffers cast too, and integers are left alone. Shapes: O outputs (rows), I inputs of a matrix.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families.packing import NF4_BLOCK, Packing

PIECE = 2**22
"""Values that are packed at once; in between each takes about twenty bytes."""
INT8_MAX = 127.0


class Packed(torch.nn.Module):
    """In place of a parameter: moves with the model, is never trained, cast or saved."""

    codes: torch.Tensor
    scale_bits: torch.Tensor

    def __init__(self, *, shape: torch.Size, codes: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale_bits", scales.view(torch.int32), persistent=False)

    @property
    def scales(self) -> torch.Tensor:
        return self.scale_bits.view(torch.float32)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The values it stands for, O x I, rounded once."""
        raise NotImplementedError


class Nf4(Packed):
    """Normal-float numbers (QLoRA, https://arxiv.org/abs/2305.14314), two a byte."""

    @classmethod
    def of(cls, w_OI: torch.Tensor) -> Nf4:
        outputs, inputs = w_OI.shape
        if inputs % NF4_BLOCK != 0:
            raise ModelError(
                f"NF4 packs {NF4_BLOCK} values of a row at a time, but a rank's rows of a matrix "
                f"have {inputs}; use another parallel.tp, or int8."
            )
        functional = _bitsandbytes()
        bytes_, blocks = inputs // 2, inputs // NF4_BLOCK
        codes = torch.empty(outputs, bytes_, dtype=torch.uint8, device=w_OI.device)
        scales = torch.empty(outputs, blocks, device=w_OI.device)
        for rows in _pieces(w_OI):
            packed, state = functional.quantize_4bit(
                w_OI[rows], blocksize=NF4_BLOCK, quant_type="nf4"
            )
            codes[rows], scales[rows] = packed.view(-1, bytes_), state.absmax.view(-1, blocks)
        return cls(shape=w_OI.shape, codes=codes.view(-1, 1), scales=scales.flatten())

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        functional = _bitsandbytes()
        state = functional.QuantState(
            absmax=self.scales,
            shape=self.shape,
            dtype=dtype,
            blocksize=NF4_BLOCK,
            quant_type="nf4",
        )
        values: torch.Tensor = functional.dequantize_4bit(self.codes, state)
        return values


class Int8(Packed):
    """Whole numbers relative to the largest of their row (LLM.int8(), arXiv 2208.07339)."""

    @classmethod
    def of(cls, w_OI: torch.Tensor, *, row_group: Any = None) -> Int8:
        """``row_group``: the ranks that share each row, whose largest value is then one of all."""
        amax_O = w_OI.abs().amax(dim=1).float()
        if row_group is not None and torch.distributed.get_world_size(row_group) > 1:
            torch.distributed.all_reduce(amax_O, op=torch.distributed.ReduceOp.MAX, group=row_group)
        codes = torch.empty(w_OI.shape, dtype=torch.int8, device=w_OI.device)
        factor_O1 = torch.where(amax_O == 0.0, 0.0, INT8_MAX / amax_O).unsqueeze(1)
        for rows in _pieces(w_OI):
            codes[rows] = (w_OI[rows] * factor_O1[rows]).round_().to(torch.int8)
        return cls(shape=w_OI.shape, codes=codes, scales=amax_O)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        return self.codes.to(dtype).mul_(self.scales.unsqueeze(1) * (1.0 / INT8_MAX))


def pack(w_OI: torch.Tensor, *, packing: Packing, row_group: Any = None) -> Packed:
    """The rank's part of a matrix; ``row_group``: the ranks among which its rows are cut."""
    with torch.no_grad():
        if packing is Packing.nf4:
            return Nf4.of(w_OI)
        return Int8.of(w_OI, row_group=row_group)


def _pieces(w_OI: torch.Tensor) -> Iterator[slice]:
    """Rows that are packed at once."""
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
