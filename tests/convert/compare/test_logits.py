# SPDX-License-Identifier: Apache-2.0
"""The first layer that differs is the one that was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megacpt.convert.compare.logits import compare_logits, first_apart
from megacpt.convert.compare.text import layer_lines
from megacpt.convert.conversion import Conversion, Form, convert
from megacpt.convert.opened import open_source
from megacpt.errors import ModelError
from tests.llama_cases import write_llama


def test_a_checkpoint_and_a_change_in_one_layer(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "a")
    source = open_source(tmp_path / "a")
    convert(Conversion(source=source, form=Form.native, destination=tmp_path / "native"))
    native = open_source(tmp_path / "native")
    layers = compare_logits(source, b=native, scratch=tmp_path)
    assert [layer.difference for layer in layers] == [0.0] * 6
    assert first_apart(layers, tolerance=0) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "native"]
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0] += 1.0
    model.save_pretrained(tmp_path / "b")
    layers = compare_logits(native, b=open_source(tmp_path / "b"), scratch=tmp_path)
    apart = first_apart(layers, tolerance=1e-6)
    assert apart is not None
    assert apart.name == "layer 2"
    assert [layer.name for layer in layers if layer.difference == 0] == [
        "embedding",
        "layer 0",
        "layer 1",
    ]
    assert max(map(len, layer_lines(layers))) <= 80


def test_other_sizes(tmp_path: Path) -> None:
    for name, layers in (("a", 4), ("b", 2)):
        write_llama(tmp_path / name, num_hidden_layers=layers)
    a, b = (open_source(tmp_path / name) for name in "ab")
    with pytest.raises(ModelError, match=r"a has num_layers=4, .*b has 2: their logits cannot"):
        compare_logits(a, b=b, scratch=tmp_path)
