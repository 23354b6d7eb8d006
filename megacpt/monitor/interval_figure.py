# SPDX-License-Identifier: Apache-2.0
"""An interval as a line on a scale shared by all suites: the estimate, no change and the limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT, MARGIN = 150, 22, 5


def interval_figure(check: Mapping[str, Any], *, span_points: float) -> Markup:
    """An SVG; numbers alone come from ``check``."""

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
