# SPDX-License-Identifier: Apache-2.0
"""A difference of one number in one model is found, named and measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from megacpt.convert.compare.tensors import TensorPair, compare_tensors
from megacpt.convert.compare.text import tensor_lines
from megacpt.convert.opened import open_source
from megacpt.convert.sources import SourceModel
from tests.convert.support import held_in_memory
from tests.llama_cases import write_llama

NAME = "model.layers.1.mlp.up_proj.weight"


def changed(source: SourceModel, values: torch.Tensor | None) -> SourceModel:
    others = {name: tensor for name, tensor in source.tensors.items() if name != NAME}
    new = {} if values is None else {NAME: held_in_memory(values)}
    return replace(source, tensors=others | new)


def compared(tmp_path: Path, change: object) -> tuple[TensorPair, list[str]]:
    write_llama(tmp_path)
    source = open_source(tmp_path)
    values = change(source.tensors[NAME].whole())  # type: ignore[operator]
    pairs = list(compare_tensors(source, b=changed(source, values)))
    assert len(pairs) == len(source.tensors)
    (pair,) = [pair for pair in pairs if pair.name == NAME]
    assert all(p.equal and p.difference == 0 for p in pairs if p.name != NAME)
    lines = list(tensor_lines(pairs, tolerance=0.0))
    assert max(map(len, lines)) <= 80
    return pair, lines


def test_equal(tmp_path: Path) -> None:
    pair, lines = compared(tmp_path, lambda values: values)
    assert pair.equal
    assert pair.within(0)
    assert lines == ["39 tensors: 39 equal bit for bit, 0 not, 0 of them beyond 0"]


def test_one_number(tmp_path: Path) -> None:
    def change(values: torch.Tensor) -> torch.Tensor:
        values[71, 40] += 0.25
        return values

    pair, lines = compared(tmp_path, change)
    assert not pair.equal
    assert math.isclose(pair.difference, 0.25, rel_tol=1e-6)
    assert pair.within(0.3)
    assert not pair.within(0.2)
    assert lines[1].startswith(NAME)
    assert lines[1].endswith("2.500e-01")


def test_another_type_shape_or_none(tmp_path: Path) -> None:
    pair, _ = compared(tmp_path / "a", lambda values: values.double())
    assert not pair.equal
    assert pair.within(0)
    pair, lines = compared(tmp_path / "b", lambda values: values[:-1])
    assert not pair.within(1e9)
    assert lines[1].endswith("[72, 48] and [71, 48]")
    pair, lines = compared(tmp_path / "c", lambda values: None)
    assert pair.shapes == ((72, 48), None)
    assert lines[1].endswith("only in the first")


def test_not_a_number_and_infinities(tmp_path: Path) -> None:
    def change(values: torch.Tensor) -> torch.Tensor:
        values[0, 0] = math.nan
        return values

    pair, _ = compared(tmp_path, change)
    assert not pair.within(1e9)
    odd = torch.tensor([math.nan, math.inf, 1.0])
    (pair,) = compare_tensors(only(odd), b=only(odd.double()))
    assert pair.within(0)


def only(values: torch.Tensor) -> SourceModel:
    return SourceModel(
        folder=Path("x"),
        described_by=Path("x"),
        architecture=None,  # type: ignore[arg-type]
        tensors={"x": held_in_memory(values)},
    )
