# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run and the difference of two, for a terminal of 80 columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from megacpt.checkpoint.difference import DifferenceRow
from megacpt.checkpoint.folders import Candidate
from megacpt.checkpoint.listing import Listing
from megacpt.text import duration, memory_size, wrapped

if TYPE_CHECKING:  # It imports torch.
    from megacpt.checkpoint.weight_change import WeightChange

TITLE, VALUE = 26, 18
NAME = 15
WEIGHT = 50
WEIGHTS_HEADER = (
    f"{'weight (of all layers together)':<{WEIGHT}}{'rms':>9}{'change':>11}{'largest':>10}"
)


def listing_text(listing: Listing) -> str:
    """All of them, newest first, and why some are passed over."""
    return "\n".join([*_table(listing), *_passed_over(listing), *_about(listing)]) + "\n"


def difference_text(rows: Sequence[DifferenceRow], *, first: int, second: int) -> str:
    header = f"{'':<{TITLE}}{f'step {first}':>{VALUE}}{f'step {second}':>{VALUE}}"
    lines = (
        f"{_cut(row.title):<{TITLE}}{_value(row.first, unit=row.unit):>{VALUE}}"
        f"{_value(row.second, unit=row.unit):>{VALUE}}{_change(row):>{VALUE}}"
        for row in rows
    )
    return "\n".join(line.rstrip() for line in (header, *lines)) + "\n"


def weight_line(change: WeightChange) -> str:
    name = _cut(change.name.removeprefix("decoder."), width=WEIGHT)
    numbers = f"{change.rms:>9.3g}{100 * change.relative:>9.3g} %{change.largest:>10.2g}"
    return f"{name:<{WEIGHT}}{numbers}"


def _table(listing: Listing) -> Iterator[str]:
    if not listing.found:
        yield f"{listing.run_dir} has no complete checkpoint yet."
        return
    loss = "loss" if listing.loss_of else ""
    yield f"{'step':>10}{'start':>7}{'size':>12}  {'written':<16}{loss:>10}  {'kept':<12}state"
    for candidate in listing.found:
        yield _line(listing, candidate=candidate).rstrip()


def _line(listing: Listing, *, candidate: Candidate) -> str:
    manifest, step = candidate.manifest, candidate.step
    start, size, loss = "-", "-", ""
    if manifest is not None:
        start = str(manifest.start)
        size = memory_size(manifest.bytes)
        if listing.loss_of in (manifest.heldout or {}):
            loss = f"{(manifest.heldout or {})[str(listing.loss_of)]:.4f}"
    kept = listing.kept.get(step, "")
    written = _clock(listing.written_at[step])
    state = _state(listing, candidate=candidate)
    return f"{step:>10}{start:>7}{size:>12}  {written:<16}{loss:>10}  {kept:<12}{state}"


def _state(listing: Listing, *, candidate: Candidate) -> str:
    if candidate.is_left:
        return "left"
    if candidate.problem is not None:
        return "damaged"
    return "newest" if candidate is listing.newest else "sound"


def _passed_over(listing: Listing) -> Iterator[str]:
    passed = [candidate for candidate in listing.found if candidate.problem is not None]
    if passed:
        yield "\nNever resumed from:"
    for candidate in passed:
        yield from _wrapped(f"  step {candidate.step:<{NAME - 7}}", text=str(candidate.problem))


def _about(listing: Listing) -> Iterator[str]:
    if listing.found or listing.partials or listing.starts or listing.removed:
        yield ""
    if listing.loss_of:
        yield from _wrapped(
            "loss", text=f"held-out {listing.loss_of}, where it was measured at the step"
        )
    if listing.removed:
        yield from _wrapped("deleted", text=", ".join(sorted(p.name for p in listing.removed)))
    for partial in listing.partials:
        yield from _wrapped("incomplete", text=f"step {partial.step}, of start {partial.start}")
    if listing.starts:
        yield from _wrapped("newest start", text=_newest_start(listing))
    if listing.found:
        words = "every byte" if listing.verified else "sizes only; --verify reads every byte"
        yield from _wrapped("verified", text=words)


def _newest_start(listing: Listing) -> str:
    start = listing.starts[-1]
    where = {None: "nothing loaded yet", 0: "from the beginning"}.get(
        start.from_step, f"from step {start.from_step}"
    )
    return f"{start.number} ({start.who}), {_clock(start.time)}, {where}"


def _wrapped(title: str, *, text: str) -> list[str]:
    return wrapped(text, head=f"{title:<{NAME}}", indent=NAME)


def _value(value: object, *, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes" and isinstance(value, int):
        return memory_size(value)
    if unit == "s" and isinstance(value, float):
        return duration(value)
    return f"{value:.4f}" if isinstance(value, float) else _whole(value)


def _change(row: DifferenceRow) -> str:
    """Of numbers by how much, of anything else whether."""
    if row.is_equal:
        return ""
    if not isinstance(row.first, int | float) or not isinstance(row.second, int | float):
        return "" if row.first is None or row.second is None else "differs"
    change = row.second - row.first
    sign = "+" if change > 0 else "-"
    return sign + _value(abs(change), unit=row.unit)


def _whole(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return _cut(text, width=VALUE - 2)


def _cut(text: str, *, width: int = TITLE - 1) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
