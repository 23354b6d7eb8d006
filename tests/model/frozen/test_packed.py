# SPDX-License-Identifier: Apache-2.0
"""Packed weights are bitsandbytes' own, bit for bit, and take at most a third of bf16."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from megacpt.config.sections import BaseWeights
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.model.frozen import packed
from megacpt.model.frozen.packed import PACKED, Packed

DTYPES = (torch.float32, torch.bfloat16)


def matrix(*, dtype: torch.dtype, outputs: int = 96, inputs: int = 192) -> torch.Tensor:
    """With rows of very different sizes, and one of zeros."""
    generator = torch.Generator().manual_seed(3)
    w_OI = torch.randn(outputs, inputs, generator=generator)
    w_OI *= torch.logspace(-4, 1, outputs).unsqueeze(1)
    w_OI[7] = 0.0
    return w_OI.to(dtype)


def pack(w_OI: torch.Tensor, *, packing: BaseWeights) -> Packed:
    filled = PACKED[packing](w_OI.shape)
    filled.fill(w_OI)
    return filled


@pytest.fixture(scope="module")
def functional() -> Any:
    return pytest.importorskip("bitsandbytes").functional


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [packed.PIECE, 192 * 10])
def test_nf4_is_that_of_bitsandbytes(
    functional: Any, dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only some rows at a time are packed."""
    monkeypatch.setattr(packed, "PIECE", piece)
    w_OI = matrix(dtype=dtype)
    codes, state = functional.quantize_4bit(w_OI, blocksize=64, quant_type="nf4")
    found = pack(w_OI, packing=BaseWeights.nf4)
    assert torch.equal(found.codes.view_as(codes), codes)
    assert torch.equal(found.scales.flatten(), state.absmax)
    assert torch.equal(found.dense(dtype), functional.dequantize_4bit(codes, state))
    assert not torch.equal(found.dense(dtype), w_OI)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_is_that_of_bitsandbytes(functional: Any, dtype: torch.dtype) -> None:
    """Which first rounds to float16; these are such numbers."""
    w_OI = matrix(dtype=dtype).half().to(dtype)
    codes, scales, _ = functional.int8_vectorwise_quant(w_OI.half())
    found = pack(w_OI, packing=BaseWeights.int8)
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.scales.flatten(), scales)
    expected = functional.int8_vectorwise_dequant(codes, scales)
    torch.testing.assert_close(found.dense(torch.float32), expected, atol=0.0, rtol=1e-6)
    assert found.dense(torch.float32)[7].eq(0.0).all()


@pytest.mark.parametrize("packing", BaseWeights)
def test_a_cast_model_keeps_its_scales(functional: Any, packing: BaseWeights) -> None:
    """megatron-core casts the whole model to bf16, buffers included; rounded scales would be other
    weights."""
    w_OI = matrix(dtype=torch.float32)
    found = pack(w_OI, packing=packing)
    before = found.dense(torch.float32)
    found.bfloat16()
    assert torch.equal(found.dense(torch.float32), before)
    found.scale_bits = found.scales.bfloat16().float().view(torch.int32)
    assert not torch.equal(found.dense(torch.float32), before)


@pytest.mark.parametrize(("packing", "most"), [(BaseWeights.nf4, 0.29), (BaseWeights.int8, 0.52)])
def test_bytes_beside_bf16(functional: Any, packing: BaseWeights, most: float) -> None:
    w_OI = matrix(dtype=torch.bfloat16, inputs=512)
    found = pack(w_OI, packing=packing)
    assert sum(buffer.nbytes for buffer in found.buffers()) <= most * w_OI.nbytes
    assert not list(found.parameters())
    assert not found.state_dict()


def test_blocks_do_not_cross_rows(functional: Any) -> None:
    with pytest.raises(ModelError, match=r"64 values of a row .* have 96; use another parallel.tp"):
        pack(matrix(dtype=torch.float32, inputs=96), packing=BaseWeights.nf4)


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which int8 does not need."""
    packed._bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    w_OI = matrix(dtype=torch.float32)
    with pytest.raises(
        EnvironmentError_, match=r"pip install 'megacpt\[nf4\]'; or pack it as int8"
    ):
        pack(w_OI, packing=BaseWeights.nf4)
    assert (
        pack(w_OI, packing=BaseWeights.int8).dense(torch.float32) - w_OI
    ).norm() < 0.01 * w_OI.norm()
