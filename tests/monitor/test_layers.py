# SPDX-License-Identifier: Apache-2.0
"""Suites in layers, as the report shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.monitor.layers import ReportLayer, layers
from tests.monitor.sample_run import STEPS, records, write_evaluation, write_run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[ReportLayer]:
    folder: Path = tmp_path_factory.mktemp("run")
    config = write_run(folder, run=records())
    write_evaluation(folder, config=config, step=STEPS, suites=True)
    return layers(json.loads((folder / "evaluation.json").read_text()))


def test_layers_come_in_order_and_empty_ones_do_not(found: list[ReportLayer]) -> None:
    assert [layer["role"] for layer in found] == ["retention", "gain", "usefulness"]
    assert [row["check"]["suite"] for row in found[0]["rows"]] == ["hellaswag", "mmlu"]
    assert layers(None) == layers({"gate": []}) == []


def test_flips_lie_with_their_suite(found: list[ReportLayer]) -> None:
    row = found[1]["rows"][0]
    assert len(row["lost"]) == min(100, row["check"]["lost"])
    assert all(flip["candidate"] > flip["base"] for flip in row["gained"])


def test_contamination_is_told_of_benchmarks(found: list[ReportLayer]) -> None:
    clean, other = found[0]["rows"]
    assert clean["contamination"] == "the text trained on was cleaned of its items"
    assert other["contamination"] == "its items may be in the text trained on"
    assert found[2]["rows"][0]["contamination"] == ""


def test_the_scale_of_a_layer_holds_its_intervals(found: list[ReportLayer]) -> None:
    for layer in found:
        for row in layer["rows"]:
            assert -layer["span_points"] <= row["check"]["low_points"]
            assert row["check"]["high_points"] <= layer["span_points"]
