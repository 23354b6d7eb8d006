# SPDX-License-Identifier: Apache-2.0
"""Rows: what goes in comes out, and lies where megatron-core looks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megacpt.families import param_rows, read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.weights import Param
from tests.support import LLAMA


@pytest.fixture
def architecture(tmp_path: Path) -> Architecture:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return read_architecture(tmp_path)


def row(architecture: Architecture, ending: str) -> Param:
    return next(r for r in param_rows(architecture) if r.native.endswith(ending))


def test_qkv_lies_as_query_heads_key_value_for_each_key_value_head(
    architecture: Architecture,
) -> None:
    # 4 query heads of 16, 2 key-value heads; the whole, so 2 groups of 2 + 1 + 1 heads.
    native = torch.zeros(128, 64)
    qkv = row(architecture, "linear_qkv.weight")
    for value, view in enumerate(qkv.views(native, architecture=architecture, tp=1), start=1):
        view.fill_(value)
    assert native[::16, 0].tolist() == [1, 1, 2, 3, 1, 1, 2, 3]


def test_gate_lies_before_up_on_each_rank(architecture: Architecture) -> None:
    native = torch.zeros(96, 64)
    fc1 = row(architecture, "linear_fc1.weight")
    for value, view in enumerate(fc1.views(native, architecture=architecture, tp=2), start=1):
        view.fill_(value)
    assert native[:, 0].tolist() == [1] * 48 + [2] * 48


@pytest.mark.parametrize("tp", [1, 2])
def test_spans_of_the_ranks_partition_every_source(architecture: Architecture, tp: int) -> None:
    for param in param_rows(architecture):
        if param.tp_dim is None:
            continue
        sources = [s.shape(architecture) for s in param.sources]
        rows = sum(-(-shape[0] // (tp if param.tp_dim == 0 else 1)) for shape in sources)
        columns = [n // (tp if param.tp_dim == 1 else 1) for n in sources[0][1:]]
        shard = torch.empty(rows, *columns)
        for source, view in zip(
            param.sources, param.views(shard, architecture=architecture, tp=tp), strict=True
        ):
            spans = [
                param.span(view, source=source, architecture=architecture, rank=rank)
                for rank in range(tp)
            ]
            covered = [n for span in spans for n in range(span.start, span.stop)]
            assert covered == list(range(source.shape(architecture)[param.tp_dim]))
