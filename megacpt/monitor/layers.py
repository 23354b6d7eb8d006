# SPDX-License-Identifier: Apache-2.0
"""The suites of evaluation.json in the layers of an evaluation: kept, gained, useful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from markupsafe import Markup

WIDTH, HEIGHT, MARGIN = 150, 22, 5
"""Of the figure of an interval."""

LAYERS = {
    "retention": "1. Retention: what the base model can",
    "gain": "2. Gain: the domain",
    "usefulness": "3. Usefulness: answers to your questions",
    "none": "Measured without a role",
}
CONTAMINATION = {
    True: "the text trained on was cleaned of its items",
    False: "its items may be in the text trained on",
    None: "not known whether its items are in the text trained on",
}


class ShownFlip(TypedDict):
    """An item whose score changed."""

    id: str
    cluster: str
    base: float
    candidate: float


class SuiteRow(TypedDict):
    """``check``: of evaluation.json (megacpt.evaluate.suite_gate). ``contamination``: empty for
    questions of the user's own."""

    check: Mapping[str, Any]
    contamination: str
    lost: list[ShownFlip]
    gained: list[ShownFlip]


class ReportLayer(TypedDict):
    """``span_points``: half the width of a scale that holds all its intervals and limits."""

    role: str
    title: str
    span_points: float
    rows: list[SuiteRow]


def layers(evaluation: Mapping[str, Any] | None) -> list[ReportLayer]:
    """Those that something was measured of."""
    if evaluation is None:
        return []
    flipped = evaluation.get("flipped", {})
    checks = evaluation.get("suites", [])
    found = [
        _layer(
            role,
            rows=[
                _row(check, flips=flipped.get(check["suite"], []))
                for check in checks
                if check["role"] == role
            ],
        )
        for role in LAYERS
    ]
    return [layer for layer in found if layer["rows"]]


def checks_of(found: Sequence[ReportLayer]) -> list[Mapping[str, Any]]:
    """Those of all layers, in their order."""
    return [row["check"] for layer in found for row in layer["rows"]]


def _layer(role: str, *, rows: list[SuiteRow]) -> ReportLayer:
    span = _span_points([row["check"] for row in rows])
    return {"role": role, "title": LAYERS[role], "span_points": span, "rows": rows}


def _row(check: Mapping[str, Any], *, flips: list[ShownFlip]) -> SuiteRow:
    asked = check["role"] == "usefulness"
    return {
        "check": check,
        "contamination": "" if asked else CONTAMINATION[check["decontaminated"]],
        "lost": [flip for flip in flips if flip["candidate"] < flip["base"]],
        "gained": [flip for flip in flips if flip["candidate"] > flip["base"]],
    }


def _span_points(checks: list[Mapping[str, Any]]) -> float:
    ends: list[float] = [
        abs(value)
        for check in checks
        for value in (check["low_points"], check["high_points"], check["limit_points"] or 0.0)
    ]
    return max([1.0, *ends])


def interval_figure(check: Mapping[str, Any], *, span_points: float) -> Markup:
    """A line on a scale that all suites share: the estimate, no change and the limit; an SVG into
    which numbers alone come from ``check``."""

    def x(points: float) -> str:
        inside = (points + span_points) / (2 * span_points) * (WIDTH - 2 * MARGIN)
        return f"{MARGIN + min(max(inside, 0.0), WIDTH - 2 * MARGIN):.1f}"

    middle, limit = HEIGHT / 2, check["limit_points"]
    low, high = x(check["low_points"]), x(check["high_points"])
    marks = [
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="1" y2="{HEIGHT - 1}"/>',
        f'<line class="range" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>',
        f'<circle cx="{x(check["difference_points"])}" cy="{middle}" r="3.5"/>',
    ]
    if limit is not None:
        marks.append(
            f'<line class="limit" x1="{x(limit)}" x2="{x(limit)}" y1="1" y2="{HEIGHT - 1}"/>'
        )
    label = f"{check['difference_points']:+.1f} points"
    return Markup(
        f'<svg class="interval" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(marks)
        + "</svg>"
    )
