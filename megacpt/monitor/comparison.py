# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: the figures of their reports, and their candidates item by item.

The table of a terminal has 80 columns: three runs stand beside each other, more follow below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megacpt.monitor.layers import LAYERS, checks_of
from megacpt.monitor.report import page_of
from megacpt.monitor.summary import Summary
from megacpt.text import count

LABEL, CELL, RUNS_IN_A_ROW = 26, 18, 3
WORDS = {"passed": "passed", "failed": "FAILED", "not enough items": "undecided"}
UNKNOWN = "-"
LEGEND = "suites: points to the base, and their interval; undecided: not enough items"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One figure of every run, in their order."""

    label: str
    cells: tuple[str, ...]
    begins_part: bool = False
    is_number: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A suite that two runs' candidates have answered. ``check``: of the second minus the first
    (megacpt.evaluate.suite_gate)."""

    first: str
    second: str
    check: Mapping[str, Any]


def comparison_rows(runs: Sequence[Summary]) -> list[ComparedRow]:
    return [
        ComparedRow(label="base model", cells=tuple(run["model"] for run in runs), is_number=False),
        _row("steps", cells=[f"{run['steps']:,}" for run in runs]),
        _row("tokens", cells=[count(run["tokens"]) for run in runs]),
        _row(
            "peak learning rate", cells=[f"{run['config']['optim']['lr_peak']:g}" for run in runs]
        ),
        *_perplexities(runs),
        _row("forgetting, nats", cells=[_signed(run["forgetting"], digits=4) for run in runs]),
        *_suites(runs),
        _row("gate", cells=[run["gate"]["verdict"] for run in runs], begins_part=True),
    ]


def _perplexities(runs: Sequence[Summary]) -> list[ComparedRow]:
    """Final over base, of the sets of the two roles."""
    rows = []
    for role in ("domain", "general"):
        found = [_ratio(run, role=role) for run in runs]
        cells = [UNKNOWN if ratio is None else f"x {ratio:.4f}" for ratio in found]
        rows.append(_row(f"{role} perplexity", cells=cells, begins_part=role == "domain"))
    return rows


def _ratio(run: Summary, *, role: str) -> float | None:
    changes = run["heldout"].values()
    return next((c["ratio"] for c in changes if c["role"] == role and "ratio" in c), None)


def _suites(runs: Sequence[Summary]) -> list[ComparedRow]:
    """Candidate minus base of each suite, in the order of the layers, its interval below it. What
    is retention to one run and a gain to another has a row of each."""
    checks = [{(c["role"], c["suite"]): c for c in checks_of(run["layers"])} for run in runs]
    keys = dict.fromkeys(key for found in checks for key in found)
    last, rows = "", []
    for role, name in sorted(keys, key=lambda key: list(LAYERS).index(key[0])):
        of_run = [found.get((role, name)) for found in checks]
        label = name if role == "none" else f"{name} {role}"
        rows.append(_row(label, cells=[points_text(c) for c in of_run], begins_part=role != last))
        rows.append(_row("", cells=[interval_text(check) for check in of_run]))
        last = role
    return rows


def points_text(check: Mapping[str, Any] | None) -> str:
    """``-0.7 undecided``: points and verdict."""
    if check is None:
        return UNKNOWN
    return f"{check['difference_points']:+.1f} {WORDS.get(check['verdict'], '')}".rstrip()


def interval_text(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return ""
    return f"{check['low_points']:+.1f} to {check['high_points']:+.1f}"


def comparison_text(runs: Sequence[Summary], *, between: Sequence[Between]) -> str:
    rows = comparison_rows(runs)
    blocks = [_block(runs, rows=rows, first=first) for first in range(0, len(runs), RUNS_IN_A_ROW)]
    return "\n\n".join([*blocks, LEGEND, *_between_block(between)])


def _block(runs: Sequence[Summary], *, rows: Sequence[ComparedRow], first: int) -> str:
    part = slice(first, first + RUNS_IN_A_ROW)
    lines = [_line("", cells=[run["run"] for run in runs[part]])]
    for row in rows:
        lines += [""] if row.begins_part else []
        lines.append(_line(row.label, cells=row.cells[part]))
    return "\n".join(lines)


def _between_block(between: Sequence[Between]) -> list[str]:
    """Each pair of runs once, its suites below."""
    lines, last = ["candidates against each other, item by item"], ("", "")
    for pair in between:
        check = pair.check
        if (pair.first, pair.second) != last:
            last = (pair.first, pair.second)
            lines.append(f"  {_cut(pair.second, width=32)} minus {_cut(pair.first, width=32)}")
        lines.append(
            f"    {_cut(check['suite'], width=23):<24}{check['difference_points']:+.1f} points, "
            f"{check['low_points']:+.1f} to {check['high_points']:+.1f}, p {check['p_holm']:.2g}"
        )
    return ["\n".join(lines)] if between else []


def comparison_html(runs: Sequence[Summary], *, between: Sequence[Between]) -> str:
    return page_of("comparison.html.jinja", runs=runs, rows=comparison_rows(runs), between=between)


def _row(label: str, *, cells: Sequence[str], begins_part: bool = False) -> ComparedRow:
    return ComparedRow(label=label, cells=tuple(cells), begins_part=begins_part)


def _line(label: str, *, cells: Sequence[str]) -> str:
    text = f"{_cut(label, width=LABEL - 1):<{LABEL}}" + "".join(
        f"{_cut(cell, width=CELL - 1):>{CELL}}" for cell in cells
    )
    return text.rstrip()


def _cut(text: str, *, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\N{HORIZONTAL ELLIPSIS}"


def _signed(value: float | None, *, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:+.{digits}f}"
