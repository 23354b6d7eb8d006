# SPDX-License-Identifier: Apache-2.0
"""The report's curves, as SVG text to put inside a page: one y axis each, lines labelled at their
end, text as text. Long runs are drawn from at most 300 points, so the page stays small."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from megacpt.monitor.metrics import StepRecord
from megacpt.monitor.summary import measured
from megacpt.text import count

COLOURS = ("#1d5fa6", "#b3500c", "#1b7a54", "#7b4ba0", "#a33058", "#5c6670", "#7a6a00", "#0f7380")
INK, MUTED, GRID = "#1c2733", "#5b6672", "#e4e8ec"
POINTS_MAX = 300
NOISY_LINES_MAX = 3
"""More curves than this are shown without the noise behind them."""
LABEL_SHARE_MIN = 0.2
"""Of the width, so that charts with short labels have axes of one length."""
SMOOTH_FROM = 40
"""Noisy curves with at least this many points get a running mean, the raw line behind it."""

Points = Sequence[tuple[int, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve; ``label`` stands at its end."""

    label: str
    points: Points
    colour: str
    markers: bool = False
    smooth: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """``reference``: a height and what it means, drawn as a dashed line across. ``form``: how a
    value is written. ``span_min``: least height of the y axis, so that charts compare."""

    title: str
    unit: str
    lines: Sequence[Line]
    reference: tuple[float, str] | None = None
    form: Callable[[float], str] = field(default=lambda value: f"{value:.3f}")
    from_zero: bool = False
    span_min: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Finished SVG elements with their titles, in the order of reading."""

    heldout: Sequence[str]
    training: Sequence[str]


def draw_all(
    records: Sequence[StepRecord], *, heldout_sets: Sequence[str], clip_grad_norm: float
) -> Figures:
    """``heldout_sets``: in the order they are shown."""
    colours = colour_of_name(records)
    return Figures(
        heldout=[
            svg(chart) for chart in heldout_charts(records, names=heldout_sets, colours=colours)
        ],
        training=[
            svg(chart)
            for chart in training_charts(records, colours=colours, clip_grad_norm=clip_grad_norm)
        ],
    )


def colour_of_name(records: Sequence[StepRecord]) -> dict[str, str]:
    """One colour a source or held-out set, the same in every chart."""
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record.get("loss_per_source", {}))
        names |= dict.fromkeys(record.get("heldout", {}))
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}


def heldout_charts(
    records: Sequence[StepRecord], *, names: Sequence[str], colours: Mapping[str, str]
) -> list[Chart]:
    """All sets on axes of one height: a small loss must not look like a large gain."""
    found = measured(records)
    if not found or found[-1]["step"] == 0:
        return []
    points = {name: _of_heldout(found, name=name) for name in names}
    span = max((_height(series) for series in points.values()), default=0.0)
    charts = [
        Chart(
            title=f"Held-out loss: {name}",
            unit="nats a token",
            lines=[Line(label="", points=series, colour=colours[name], markers=True)],
            reference=_base_line(series),
            span_min=span,
        )
        for name, series in points.items()
    ]
    return charts + _forgetting_chart(records)


def _of_heldout(found: Sequence[StepRecord], *, name: str) -> Points:
    return [(r["step"], r["heldout"][name]["loss"]) for r in found if name in r["heldout"]]


def _height(points: Points) -> float:
    known = [value for _, value in points if value is not None]
    return max(known) - min(known) if known else 0.0


def _base_line(points: Points) -> tuple[float, str] | None:
    base = points[0][1]
    return None if base is None else (base, f"base {base:.3f}")


def _forgetting_chart(records: Sequence[StepRecord]) -> list[Chart]:
    points = _series(records, key="forgetting")
    if not points:
        return []
    line = Line(label="", points=[(0, 0.0), *points], colour=COLOURS[4], markers=True)
    return [
        Chart(
            title="Forgetting",
            unit="general held-out loss minus base, nats a token",
            lines=[line],
            reference=(0.0, "base"),
            form=lambda value: f"{value:+.3f}".replace("-", "\N{MINUS SIGN}"),
            span_min=0.02,
        )
    ]


def training_charts(
    records: Sequence[StepRecord], *, colours: Mapping[str, str], clip_grad_norm: float
) -> list[Chart]:
    sources = dict.fromkeys(s for r in records for s in r.get("loss_per_source", {}))
    losses = [
        Line(label=name, points=_of_source(records, name=name), colour=colours[name], smooth=True)
        for name in sources
    ]
    clip = (clip_grad_norm, f"clip {clip_grad_norm:g}") if clip_grad_norm else None
    charts = [
        Chart(title="Training loss of each source", unit="nats a token", lines=losses),
        Chart(
            title="Learning rate",
            unit="AdamW, each step",
            lines=[Line(label="", points=_series(records, key="lr"), colour=COLOURS[0])],
            form=lambda value: f"{value:.1e}".replace("e-0", "e-"),
            from_zero=True,
        ),
        Chart(
            title="Gradient norm",
            unit="global L2, before clipping",
            lines=[_smooth(records, key="grad_norm")],
            reference=clip,
            form=lambda value: f"{value:.2f}",
            from_zero=True,
        ),
        Chart(
            title="Throughput",
            unit="tokens a second",
            lines=[_smooth(records, key="tokens_per_s")],
            form=count,
            from_zero=True,
        ),
    ]
    return [chart for chart in charts if any(line.points for line in chart.lines)]


def _smooth(records: Sequence[StepRecord], *, key: str) -> Line:
    return Line(label="", points=_series(records, key=key), colour=COLOURS[0], smooth=True)


def _series(records: Sequence[StepRecord], *, key: str) -> list[tuple[int, float | None]]:
    """``None`` where the number diverged; steps that lack the key are left out."""
    return [(r["step"], r[key]) for r in records if key in r]  # type: ignore[literal-required]


def _of_source(records: Sequence[StepRecord], *, name: str) -> list[tuple[int, float | None]]:
    return [
        (r["step"], r["loss_per_source"][name])
        for r in records
        if name in r.get("loss_per_source", {})
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A thinned curve: of each run of points the mean step, mean, least and largest value."""

    steps: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def thinned(points: Points) -> Band:
    """At most POINTS_MAX runs of equal length; one without any number is a gap (NaN)."""
    size = math.ceil(len(points) / POINTS_MAX) if points else 1
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    values = [[value for _, value in group if value is not None] for group in groups]
    return Band(
        steps=[_mean([step for step, _ in group]) for group in groups],
        means=[_mean(known) for known in values],
        lows=[min(known, default=math.nan) for known in values],
        highs=[max(known, default=math.nan) for known in values],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def running_mean(values: Sequence[float], *, radius: int) -> list[float]:
    """Over ``radius`` neighbours on both sides, fewer at the ends; a gap stays a gap."""
    result = []
    for n, value in enumerate(values):
        window = values[max(0, n - radius) : n + radius + 1]
        result.append(value if math.isnan(value) else _mean([v for v in window if v == v]))
    return result


def svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element that scales to its column."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.5, 2.6))
        FigureCanvasSVG(figure)
        figure.text(0.0, 0.945, chart.title, fontsize=11, fontweight="bold", color=INK)
        figure.text(0.0, 0.875, chart.unit, fontsize=9, color=MUTED)
        axes = figure.add_axes((0.1, 0.12, 0.885 - _label_share(chart), 0.68))
        _draw(axes, chart=chart)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), title=f"{chart.title}, {chart.unit}")


def _label_share(chart: Chart) -> float:
    """Share of the width that the longest end label needs."""
    labels = [_end_label(line, chart=chart) for line in chart.lines]
    labels += [chart.reference[1]] if chart.reference else []
    longest = max((len(label) for label in labels), default=0)
    return min(0.4, max(LABEL_SHARE_MIN, 0.02 + 0.0182 * longest))


def _draw(axes: Axes, *, chart: Chart) -> None:
    for line in chart.lines:
        _draw_line(axes, line=line, with_noise=len(chart.lines) <= NOISY_LINES_MAX)
    _style_axes(axes, chart=chart)
    labels = [
        (values[-1], _end_label(line, chart=chart), line.colour)
        for line in chart.lines
        if (values := _numbers(line))
    ]
    if chart.reference is not None:
        labels += _draw_reference(axes, reference=chart.reference)
    _draw_end_labels(axes, labels=labels)


def _draw_line(axes: Axes, *, line: Line, with_noise: bool) -> None:
    """Where a noisy curve is smoothed or thinned, what it hides shows as a pale band behind it."""
    band = thinned(line.points)
    if with_noise and line.smooth and len(line.points) > POINTS_MAX:
        axes.fill_between(
            band.steps, band.lows, band.highs, color=line.colour, alpha=0.2, linewidth=0.7
        )
    elif with_noise and line.smooth and len(line.points) >= SMOOTH_FROM:
        axes.plot(band.steps, band.means, color=line.colour, linewidth=0.8, alpha=0.28)
    marker = "o" if line.markers and len(line.points) <= 40 else ""
    values = _drawn(line)
    axes.plot(band.steps, values, color=line.colour, linewidth=1.8, marker=marker, markersize=3.6)


def _drawn(line: Line) -> list[float]:
    """The heights of the curve; NaN is a gap."""
    means = list(thinned(line.points).means)
    if line.smooth and len(means) >= SMOOTH_FROM:
        return running_mean(means, radius=len(means) // 24)
    return means


def _numbers(line: Line) -> list[float]:
    return [value for value in _drawn(line) if not math.isnan(value)]


def _end_label(line: Line, *, chart: Chart) -> str:
    name = line.label if len(line.label) <= 16 else line.label[:15] + "…"
    values = _numbers(line)
    if not values:
        return name
    diverged = line.points[-1][1] is None
    return f"{name} {'diverged' if diverged else chart.form(values[-1])}".strip()


def make_plain(axes: Axes) -> None:
    """A line below, thin ones behind, and small numbers."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=0, labelsize=9, labelcolor=MUTED)


def _style_axes(axes: Axes, *, chart: Chart) -> None:
    make_plain(axes)
    axes.tick_params(axis="x", length=3, color=MUTED)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _value_tick(value)))
    axes.margins(x=0.01, y=0.12)
    _set_height(axes, chart=chart)
    _set_steps(axes)


def _set_height(axes: Axes, *, chart: Chart) -> None:
    low, high = axes.get_ylim()
    missing = max(0.0, chart.span_min * 1.24 - (high - low)) / 2
    low, high = low - missing, high + missing
    axes.set_ylim((0.0, max(high, axes.dataLim.y1 * 1.1)) if chart.from_zero else (low, high))


def _set_steps(axes: Axes) -> None:
    """Few round steps, the first of which says what the axis counts."""
    low, high = axes.get_xlim()
    ticks = MaxNLocator(nbins=4, integer=True).tick_values(low, high)
    shown = [tick for tick in ticks if low <= tick <= high]
    labels = [f"{tick:,.0f}" for tick in shown]
    axes.set_xticks(shown, labels=[f"step {labels[0]}", *labels[1:]] if labels else [])


def _value_tick(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
    return count(value) if value >= 1e4 else f"{value:.1e}".replace("e-0", "e-")


def _draw_reference(axes: Axes, *, reference: tuple[float, str]) -> list[tuple[float, str, str]]:
    """Drawn only where it lies near the curve: far away it would flatten what it explains."""
    height, label = reference
    low, high = axes.get_ylim()
    if not low - (high - low) <= height <= high + (high - low):
        return []
    axes.axhline(height, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
    margin = 0.08 * (max(high, height) - min(low, height))
    axes.set_ylim(min(low, height - margin), max(high, height + margin))
    return [(height, label, MUTED)]


def _draw_end_labels(axes: Axes, *, labels: Sequence[tuple[float, str, str]]) -> None:
    low, high = axes.get_ylim()
    heights = spread([(value - low) / (high - low) for value, _, _ in labels], distance=0.085)
    for height, (_, label, colour) in zip(heights, labels, strict=True):
        axes.text(
            1.015,
            height,
            label,
            transform=axes.transAxes,
            color=colour,
            fontsize=9.5,
            va="center",
            fontweight="bold" if colour != MUTED else "normal",
        )


def spread(heights: Sequence[float], *, distance: float) -> list[float]:
    """Push labels apart until neighbours are ``distance`` away, keeping their order, below 1."""
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + distance)
    ceiling = 1.0
    for n in reversed(order):
        placed[n] = min(placed[n], ceiling)
        ceiling = placed[n] - distance
    return placed


def _inline(document: str, *, title: str) -> str:
    """The <svg> element alone, without fixed size, metadata, or ids that several would share."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
