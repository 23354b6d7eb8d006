# SPDX-License-Identifier: Apache-2.0
"""The curves keep what matters: gaps, spikes, order of labels, and one scale where they compare."""

from __future__ import annotations

import math
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megacpt.monitor.figures import (
    POINTS_MAX,
    Chart,
    Line,
    draw_all,
    heldout_charts,
    running_mean,
    spread,
    svg,
    thinned,
    training_charts,
)
from tests.monitor.sample_run import records

COLOURS = {"psalms": "#111111", "speeches": "#222222"}


def test_all_curves_of_a_run_are_drawn() -> None:
    figures = draw_all(records(), heldout_sets=["psalms", "speeches"], clip_grad_norm=1.0)
    assert [re.findall(r'aria-label="([^,"]*)', figure)[0] for figure in figures.heldout] == [
        "Held-out loss: psalms",
        "Held-out loss: speeches",
        "Forgetting",
    ]
    assert [re.findall(r'aria-label="([^,"]*)', figure)[0] for figure in figures.training] == [
        "Training loss of each source",
        "Learning rate",
        "Gradient norm",
        "Throughput",
    ]


def test_nothing_is_drawn_of_what_was_not_measured() -> None:
    figures = draw_all(records(steps=0), heldout_sets=["psalms"], clip_grad_norm=1.0)
    assert (figures.heldout, figures.training) == ([], [])


def test_heldout_sets_share_one_height_so_that_a_small_loss_looks_small() -> None:
    names = ["psalms", "speeches"]
    charts = heldout_charts(records(), names=names, colours=COLOURS)
    assert charts[0].span_min == charts[1].span_min > 0.19


def test_clipping_that_is_off_has_no_line() -> None:
    charts = training_charts(records(), colours=COLOURS, clip_grad_norm=0.0)
    assert [chart.reference for chart in charts if chart.title == "Gradient norm"] == [None]


def test_a_diverged_end_is_named() -> None:
    line = Line(label="law", points=[(1, 3.0), (2, None)], colour="#111111")
    assert ">law diverged<" in svg(Chart(title="t", unit="u", lines=[line]))


def test_names_cannot_become_markup_or_formulas() -> None:
    line = Line(label="$x^2$ <b>", points=[(1, 3.0), (2, 3.1)], colour="#111111")
    drawn = svg(Chart(title='a <i> "quoted"', unit="u", lines=[line]))
    assert "$x^2$ &lt;b&gt;" in drawn
    assert "<i>" not in drawn


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=2000))
def test_thinning_bounds_the_points_and_keeps_every_spike(values: list[float | None]) -> None:
    band = thinned(list(enumerate(values)))
    known = [value for value in values if value is not None]
    assert len(band.means) <= POINTS_MAX
    if known:
        assert max(v for v in band.highs if not math.isnan(v)) == max(known)
        assert min(v for v in band.lows if not math.isnan(v)) == min(known)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(0, 8))
def test_a_running_mean_stays_within_its_values(values: list[float], radius: int) -> None:
    means = running_mean(values, radius=radius)
    assert len(means) == len(values)
    assert min(values) - 1e-9 <= min(means) <= max(means) <= max(values) + 1e-9


def test_a_running_mean_keeps_gaps() -> None:
    means = running_mean([1.0, math.nan, 3.0], radius=1)
    assert math.isnan(means[1])
    assert (means[0], means[2]) == (1.0, 3.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_never_overlap_and_keep_their_order(heights: list[float]) -> None:
    placed = spread(heights, distance=0.1)
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(gap > 0.1 - 1e-9 for gap in gaps)
    assert max(placed, default=0.0) <= 1.0
