# SPDX-License-Identifier: Apache-2.0
"""The picture of a token shard: how its documents, and its tokens, spread over lengths.

The axis is logarithmic and the height of a bar is the share of a quarter of a doubling, which is
about its width. So equal areas are equal shares, though the bars are not all of one width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from megacpt.errors import ConfigError
from megacpt.monitor.figures import COLOURS, INK, MUTED, make_plain
from megacpt.shards.inspect import Inspection
from megacpt.shards.lengths import LengthBin
from megacpt.text import count

FORMATS = ("png", "svg", "pdf")


def draw(found: Inspection, *, path: Path) -> None:
    """Write the picture to ``path``, in the format that its ending names."""
    kind = picture_format(path)
    style: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8.0, 4.6), facecolor="white")
        _write_heading(figure, found=found)
        upper, lower = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(left=0.075, right=0.975, top=0.8, bottom=0.13, hspace=0.42)
        bins = [b for b in found.lengths.bins if b.first > 0]
        _draw(
            upper,
            bins=bins,
            amounts=[b.documents for b in bins],
            title="Documents, by length",
            colour=COLOURS[0],
        )
        _draw(
            lower,
            bins=bins,
            amounts=[b.tokens for b in bins],
            title="Tokens, by length of their document",
            colour=COLOURS[1],
        )
        _style_lengths(lower, bins=bins)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, dpi=150)


def picture_format(path: Path) -> str:
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ConfigError(f"picture {path} must end with .png, .svg or .pdf.")
    return kind


def _write_heading(figure: Figure, *, found: Inspection) -> None:
    lengths = found.lengths
    name = Path(found.prefix).name
    title = f"{name}: {lengths.documents:,} documents, {count(lengths.tokens)} tokens"
    figure.text(0.02, 0.945, title, fontsize=12, fontweight="bold", color=INK)
    words = (
        f"median {lengths.median:,} tokens, 90 % up to {lengths.percentile_90:,}, "
        f"99 % up to {lengths.percentile_99:,}, longest {lengths.longest:,}"
    )
    empty = sum(b.documents for b in lengths.bins if b.first == 0)
    if empty:
        words += f"; {empty:,} empty, not drawn"
    figure.text(0.02, 0.893, words, fontsize=9, color=MUTED)


def _draw(
    axes: Axes, *, bins: Sequence[LengthBin], amounts: Sequence[int], title: str, colour: str
) -> None:
    """A density over log2 of the length."""
    total = max(sum(amounts), 1)
    left = [math.log2(b.first) for b in bins]
    widths = [math.log2(b.last + 1) - start for b, start in zip(bins, left, strict=True)]
    heights = [100 * n / total / width / 4 for n, width in zip(amounts, widths, strict=True)]
    axes.bar(left, heights, widths, align="edge", color=colour, edgecolor="white", linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_title(
        "% in a quarter of a doubling of the length", loc="right", fontsize=8.5, color=MUTED
    )
    make_plain(axes)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)


def _style_lengths(axes: Axes, *, bins: Sequence[LengthBin]) -> None:
    """From a power of two to another, so that at least two of them are named."""
    if bins:
        low, high = bins[0].first.bit_length() - 1, bins[-1].last.bit_length()
        axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda exponent, _: _power_of_two(exponent)))
    axes.tick_params(axis="x", length=3, color=MUTED)
    axes.set_xlabel("tokens in the document", fontsize=9, color=MUTED)


def _power_of_two(exponent: float) -> str:
    if exponent != int(exponent) or exponent < 0:
        return ""
    length = 2 ** int(exponent)
    for unit, name in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if length >= unit:
            return f"{length // unit} {name}"
    return str(length)
