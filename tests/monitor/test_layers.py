# SPDX-License-Identifier: Apache-2.0
"""Suites in layers, as the report shows them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from megacpt.monitor.layers import MARGIN, WIDTH, ReportLayer, interval_figure, layers
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


INTERVAL = {"difference_points": 0.0, "low_points": -10.0, "high_points": 5.0, "limit_points": -2.5}


def test_ends_limit_and_estimate_are_where_they_belong() -> None:
    figure = ElementTree.fromstring(interval_figure(INTERVAL, span_points=10.0))
    lines = {line.get("class"): line for line in figure.iter("line")}
    width = WIDTH - 2 * MARGIN
    assert float(lines["range"].get("x1", "")) == MARGIN
    assert float(lines["range"].get("x2", "")) == MARGIN + 0.75 * width
    assert abs(float(lines["limit"].get("x1", "")) - (MARGIN + 0.375 * width)) < 0.06
    (dot,) = figure.iter("circle")
    assert float(dot.get("cx", "")) == WIDTH / 2


def test_without_a_limit_there_is_no_line_for_it() -> None:
    assert "limit" not in interval_figure({**INTERVAL, "limit_points": None}, span_points=10.0)
