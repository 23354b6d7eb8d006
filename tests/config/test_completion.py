# SPDX-License-Identifier: Apache-2.0
"""What is offered on TAB for settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.config.completion import candidates


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("experiment=ti", ["experiment=tiny"]),
        ("optim.lr", ["optim.lr_peak="]),
        ("precision.dtype=", ["precision.dtype=bf16", "precision.dtype=fp32"]),
        ("parallel.sequence_parallel=t", ["parallel.sequence_parallel=true"]),
        ("precision", ["precision.", "precision="]),
        ("precision.dt", ["precision.dtype="]),
        ("data.repl", ["data.replay.share=", "data.replay.source="]),
        ("data.sour", ["data.sources.", "data.sources.NAME."]),
        ("data.sources.law.w", ["data.sources.law.weight="]),
        ("data.sources.law.synthetic.t", ["data.sources.law.synthetic.topic="]),
        ("optim.muon.scale=", ["optim.muon.scale=spectral", "optim.muon.scale=unit_rms_norm"]),
        ("nothing.at.all", []),
        ("optim.lr_peak=", []),
        ("nothing=", []),
    ],
)
def test_candidates(typed: str, expected: list[str]) -> None:
    assert candidates(typed) == expected


def test_files_are_offered_for_paths(tmp_path: Path) -> None:
    (tmp_path / "law.idx").touch()
    (tmp_path / "law.bin").touch()
    (tmp_path / "folder").mkdir()
    offered = candidates(f"data.sources.law.prefix={tmp_path}/")
    assert offered == [
        f"data.sources.law.prefix={tmp_path}/folder/",
        f"data.sources.law.prefix={tmp_path}/law",
    ]
    assert candidates(f"model.path={tmp_path}/nowhere/x") == []
