# SPDX-License-Identifier: Apache-2.0
"""The run as a person sees it: a table that grows a line a log interval, above a bar with the ETA.

Where the output is no terminal (a log file, a SLURM job) the bar is left out and the lines stay.
Everything fits 80 columns; the columns of a line keep their place, so a trend shows at a glance.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from megacpt.monitor.metrics import (
    BenchmarkMean,
    FaultRecord,
    FaultSample,
    Generation,
    HeldoutLoss,
    RankTimes,
    StepRecord,
)
from megacpt.text import count, duration, wrapped

WIDTH = 80
HEADER_EVERY_LINES = 20
ETA_OVER_STEPS = 30
GENERATION_LINES = 3
MIN_WIDTHS = {"step": 7, "loss": 6, "lr": 7, "gnorm": 6, "tok/s": 6, "ETA": 7}
SOURCE_WIDTH = 6
SOURCE_WIDTH_MAX = 12


class Terminal:
    """Shows records as they come; ``close`` leaves the terminal as it was."""

    def __init__(
        self,
        total_steps: int,
        *,
        log_every_steps: int,
        start_step: int,
        base: StepRecord | None = None,
        title: str | None = None,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start_step``: steps already done. ``base``: the record of step 0, of a resumed run.
        ``title``: stands above the names of the columns, each time."""
        self._total_steps, self._log_every_steps = total_steps, log_every_steps
        self._base_heldout = base.get("heldout", {}) if base else {}
        self._base_benchmarks = base.get("benchmarks", {}) if base else {}
        self._title = [] if title is None else [title]
        self._clock = clock
        self._times = deque([(start_step, clock())], maxlen=ETA_OVER_STEPS + 1)
        self._lines_to_header = 0
        self._straggler: int | None = None
        file = sys.stdout if file is None else file
        self._encoding = file.encoding or "utf-8"
        self._console = Console(
            file=file, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._bar = self._start_bar(start_step) if self._console.is_terminal else None

    def update(self, record: StepRecord) -> None:
        step = record["step"]
        self._times.append((step, self._clock()))
        if step == 0:
            self._base_heldout = record.get("heldout", {})
            self._base_benchmarks = record.get("benchmarks", {})
        if "loss" in record and (step % self._log_every_steps == 0 or step == self._total_steps):
            self._show_step(record)
        if "fault" in record:
            self._show(fault_lines(record["fault"], again=record.get("passed_over", False)))
        self._show_straggler(record)
        if "heldout" in record:
            self._show(heldout_lines(record["heldout"], step=step, base=self._base_heldout))
        if "benchmarks" in record:
            self._show(benchmark_lines(record["benchmarks"], base=self._base_benchmarks))
        if "generations" in record:
            self._show(generation_lines(record["generations"], step=step))
        if self._bar is not None:
            self._advance_bar(record)

    def announce(self, event: FaultRecord) -> None:
        """Say why a rollback begins."""
        self._show(fault_lines(event, again=False))

    def rewind(self, step: int) -> None:
        """After a rollback the run goes on from an earlier ``step``."""
        self._times.clear()
        self._times.append((step, self._clock()))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start_bar(self, start_step: int) -> Bar:
        bar = Bar(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}  ETA {task.fields[eta]}"),
            console=self._console,
            transient=True,
        )
        bar.add_task("", total=self._total_steps, completed=start_step, rate="", eta="...")
        bar.start()
        return bar

    def _advance_bar(self, record: StepRecord) -> None:
        assert self._bar is not None
        self._bar.update(
            self._bar.task_ids[0],
            completed=record["step"],
            rate=f"{count(record.get('tokens_per_s'))} tok/s",
            eta=self._eta() or "...",
        )

    def _eta(self) -> str:
        (first, since), (last, until) = self._times[0], self._times[-1]
        if last == first:
            return ""
        return duration((until - since) / (last - first) * (self._total_steps - last))

    def _show_step(self, record: StepRecord) -> None:
        cells = step_cells(record, total_steps=self._total_steps, eta=self._eta())
        header, line = table_rows(cells)
        head = [*self._title, header] if self._lines_to_header == 0 else []
        self._show([*head, line])
        self._lines_to_header = (self._lines_to_header or HEADER_EVERY_LINES) - 1

    def _show_straggler(self, record: StepRecord) -> None:
        """Once for each rank that begins to straggle."""
        times = record.get("rank_times")
        straggler = times["slowest_rank"] if times and times["straggles"] else None
        if times and straggler is not None and straggler != self._straggler:
            self._show(straggler_lines(times, step=record["step"]))
        self._straggler = straggler

    def _show(self, lines: list[str]) -> None:
        """Characters that the output cannot encode are shown as ``?`` and end no run."""
        for line in lines:
            self._console.print(line.encode(self._encoding, "replace").decode(self._encoding))


def step_cells(record: StepRecord, *, total_steps: int, eta: str) -> dict[str, str]:
    """Column name -> text, in order; the losses of the sources stand after the loss of all."""
    cells = {"step": f"{record['step']:>{len(str(total_steps))}}/{total_steps}"}
    cells["loss"] = number(record.get("loss"), digits=3)
    for source, loss in record.get("loss_per_source", {}).items():
        cells[source] = number(loss, digits=3)
    cells["lr"] = "-" if record.get("lr") is None else f"{record['lr']:.1e}"
    cells["gnorm"] = number(record.get("grad_norm"), digits=2)
    cells["tok/s"] = count(record.get("tokens_per_s"))
    cells["ETA"] = eta or "-"
    return cells


def table_rows(cells: Mapping[str, str]) -> tuple[str, str]:
    """Header and line, columns right-aligned; sources that do not fit 80 columns are left out."""
    kept = list(cells)
    sources = [name for name in kept if name not in MIN_WIDTHS]
    while sources and len(_row(kept, cells=cells, names=True)) > WIDTH:
        kept.remove(sources.pop())
    return _row(kept, cells=cells, names=True), _row(kept, cells=cells, names=False)


def _row(columns: list[str], *, cells: Mapping[str, str], names: bool) -> str:
    parts = []
    for column in columns:
        title = column[:SOURCE_WIDTH_MAX]
        width = max(MIN_WIDTHS.get(column, SOURCE_WIDTH), len(title), len(cells[column]))
        parts.append(f"{title if names else cells[column]:>{width}}")
    return "  ".join(parts)


def benchmark_lines(
    benchmarks: Mapping[str, BenchmarkMean], *, base: Mapping[str, BenchmarkMean]
) -> list[str]:
    """A line a suite, with what the base model reached."""
    width = min(16, max((len(name) for name in benchmarks), default=0))
    return [
        f"  benchmark {name:<{width}}  {found['metric']} {found['mean']:.4f} "
        f"({found['num_items']} items)"
        + (f"  base {base[name]['mean']:.4f}" if name in base else "")
        for name, found in benchmarks.items()
    ]


def heldout_lines(
    heldout: Mapping[str, HeldoutLoss], *, step: int, base: Mapping[str, HeldoutLoss]
) -> list[str]:
    """One line a set; after step 0 with the base model's perplexity and the ratio to it."""
    width = min(16, max((len(name) for name in heldout), default=0))
    lines = []
    for name, now in heldout.items():
        line = f"  held-out {name[:width]:<{width}}  loss {number(now['loss'], digits=4)}"
        line += f"  perplexity {number(now['perplexity'], digits=2)}"
        if step == 0:
            line += "  (base model)"
        elif name in base:
            line += _against_base(now, base=base[name])
        lines.append(line)
    return lines


def _against_base(now: HeldoutLoss, *, base: HeldoutLoss) -> str:
    if not now["perplexity"] or not base["perplexity"]:
        return ""
    ratio = now["perplexity"] / base["perplexity"]
    return f"  base {number(base['perplexity'], digits=2)}  x {ratio:.3f}"


def generation_lines(generations: list[Generation], *, step: int) -> list[str]:
    """Prompt, then what the model made of it, in at most three lines."""
    lines = []
    for generation in generations:
        prompt = textwrap.shorten(printable(generation["prompt"]), 56, placeholder=" ...")
        lines.append(f'  sample at step {step}: "{prompt}"')
        lines += _quoted(generation["text"]) or ["    > (nothing)"]
    return lines


def _quoted(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        width=WIDTH,
        initial_indent="    > ",
        subsequent_indent="      ",
        max_lines=GENERATION_LINES,
        placeholder=" ...",
    )


def fault_lines(event: FaultRecord, *, again: bool) -> list[str]:
    """What happened and what is done, then the worst sample; ``again``: after the rollback."""
    if again:
        return [f"  step {event['step']} passed over ({fault_value(event)} before the rollback)"]
    said = f"step {event['step']}: {fault_value(event)}; {fault_consequence(event)}"
    lines = wrapped(said, head="  ! ", indent=4)
    for sample in event["samples"][:1]:
        total, bad = sum(event["sources"].values()), event["nonfinite_samples"]
        of = f"{bad} of {total} samples not finite, worst" if bad else f"worst of {total} samples"
        loss = sample["loss"] if isinstance(sample["loss"], str) else f"{sample['loss']:.3f}"
        said = f"{of}: {sample_origin(sample)}, loss {loss}"
        lines += wrapped(said, head="    ", indent=4)
        lines += _quoted(sample["excerpt"])
    return lines


def fault_value(event: FaultRecord) -> str:
    """``loss nan``, ``gradient norm 81.3 (threshold 4.2)``"""
    subject = "loss" if event["what"] == "loss" else "gradient norm"
    value, threshold = event["value"], event["threshold"]
    text = value if isinstance(value, str) else f"{value:.4g}"
    return f"{subject} {text}" + ("" if threshold is None else f" (threshold {threshold:.4g})")


def fault_consequence(event: FaultRecord) -> str:
    if event["policy"] == "skip":
        return "its update is skipped"
    if event["policy"] == "stop":
        return "the run ends"
    steps = event["passed_steps"]
    passed = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    rate = f", learning rate x {event['lr_factor']:g}" if event["lr_factor"] != 1 else ""
    return f"back to step {event['restart_step']}, passing over {passed}{rate}"


def sample_origin(sample: FaultSample) -> str:
    """``sample 3, of law, document 812 from token 40 on``"""
    text = f"sample {sample['position']}, of {sample['source']}"
    for part in sample["documents"][:1]:
        text += f", document {part['document']} from token {part['first_token']} on"
    return text


def straggler_lines(times: RankTimes, *, step: int) -> list[str]:
    ratio = times["slowest_s"] / max(times["median_s"], 1e-9)
    return [
        f"  rank {times['slowest_rank']} on {times['slowest_host']} is slow at step {step}: "
        f"{times['slowest_s']:.3g} s a step,",
        f"    {ratio:.1f} times the median rank's {times['median_s']:.3g} s (waits not counted)",
    ]


def printable(text: str) -> str:
    """One line without control characters: a model may write escape sequences."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def number(value: float | None, *, digits: int) -> str:
    """``None`` is a number that was not measured or diverged; large ones get fewer digits."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.3g}"
