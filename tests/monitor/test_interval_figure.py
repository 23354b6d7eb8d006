# SPDX-License-Identifier: Apache-2.0
"""An interval drawn to scale."""

from __future__ import annotations

from xml.etree import ElementTree

from megacpt.monitor.interval_figure import MARGIN, WIDTH, interval_figure

CHECK = {"difference_points": 0.0, "low_points": -10.0, "high_points": 5.0, "limit_points": -2.5}


def test_ends_limit_and_estimate_are_where_they_belong() -> None:
    figure = ElementTree.fromstring(interval_figure(CHECK, span_points=10.0))
    lines = {line.get("class"): line for line in figure.iter("line")}
    width = WIDTH - 2 * MARGIN
    assert float(lines["range"].get("x1", "")) == MARGIN
    assert float(lines["range"].get("x2", "")) == MARGIN + 0.75 * width
    assert abs(float(lines["limit"].get("x1", "")) - (MARGIN + 0.375 * width)) < 0.06
    (dot,) = figure.iter("circle")
    assert float(dot.get("cx", "")) == WIDTH / 2


def test_without_a_limit_there_is_no_line_for_it() -> None:
    assert "limit" not in interval_figure({**CHECK, "limit_points": None}, span_points=10.0)
