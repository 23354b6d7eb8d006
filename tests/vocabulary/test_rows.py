# SPDX-License-Identifier: Apache-2.0
"""First values beside torch's own mean and covariance of the whole table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megacpt.vocabulary import rows as rows_module
from megacpt.vocabulary.rows import RowInit, Table, first_rows

TRAINED, HIDDEN = 50, 3


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Table, torch.Tensor]:
    """Rows whose values depend on each other, and filler that counts for nothing."""
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 16)
    draw = torch.Generator().manual_seed(5)
    values = torch.randn(TRAINED, HIDDEN, generator=draw)
    values = values @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 0.3]]) + 0.7
    stored = torch.cat([values, torch.full((6, HIDDEN), 1e6)])
    save_file({"t": stored}, tmp_path / "t.safetensors")
    found = Table(name="t", file=tmp_path / "t.safetensors", num_rows=len(stored))
    return found, values


def test_subtokens_are_the_mean_of_theirs(table: tuple[Table, torch.Tensor]) -> None:
    stored, values = table
    parts = [(3, 40), (17, 17, 2), (49, 0, 16, 15)]
    found = first_rows(stored, parts=parts, num_trained=TRAINED, init=RowInit.subtokens, seed=0)
    expected = torch.stack([values[list(ids)].mean(dim=0) for ids in parts])
    torch.testing.assert_close(found, expected)


def test_means_have_mean_and_covariance_of_the_trained_rows(
    table: tuple[Table, torch.Tensor],
) -> None:
    stored, values = table
    parts = [(1, 2)] * 20_000
    found = first_rows(stored, parts=parts, num_trained=TRAINED, init=RowInit.mean, seed=0)
    torch.testing.assert_close(found.mean(dim=0), values.mean(dim=0), atol=0.05, rtol=0)
    expected = torch.cov(values.T, correction=0)
    torch.testing.assert_close(torch.cov(found.T), expected, atol=0.1, rtol=0)
    assert len(torch.unique(found, dim=0)) == len(parts)


def test_draws_follow_the_seed_and_the_type_the_table(
    table: tuple[Table, torch.Tensor], tmp_path: Path
) -> None:
    stored, values = table
    save_file({"t": values.bfloat16()}, tmp_path / "half.safetensors")
    half = Table(name="t", file=tmp_path / "half.safetensors", num_rows=TRAINED)

    def drawn(from_table: Table, seed: int) -> torch.Tensor:
        return first_rows(
            from_table, parts=[(1,)] * 4, num_trained=TRAINED, init=RowInit.mean, seed=seed
        )

    assert torch.equal(drawn(stored, 3), drawn(stored, 3))
    assert not torch.equal(drawn(stored, 3), drawn(stored, 4))
    assert drawn(half, 3).dtype is torch.bfloat16
