# SPDX-License-Identifier: Apache-2.0
"""What a person reads while a run trains: whole, aligned, within 80 columns."""

from __future__ import annotations

import io
import math

from hypothesis import given
from hypothesis import strategies as st

from megacpt.monitor.metrics import StepRecord
from megacpt.monitor.terminal import (
    Progress,
    generation_lines,
    heldout_lines,
    number,
    printable,
    step_cells,
    table_rows,
)
from tests.monitor.sample_run import fault_event, records_with_faults


class Seconds:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(step: int) -> StepRecord:
    return {
        "step": step,
        "loss": 3.5 - step / 100,
        "loss_per_source": {"domain": 3.6, "general": 3.1},
        "lr": 1.8e-5,
        "grad_norm": 0.93,
        "tokens_per_s": 612.3,
    }


def shown(*records: StepRecord, log_every_steps: int = 1, total_steps: int = 60) -> list[str]:
    out, clock = io.StringIO(), Seconds()
    progress = Progress(
        total_steps, log_every_steps=log_every_steps, start_step=0, file=out, clock=clock
    )
    for item in records:
        clock.now += 2.0
        progress.update(item)
    progress.close()
    return out.getvalue().splitlines()


def test_a_line_a_log_interval_and_one_at_the_end() -> None:
    lines = shown(*[record(n) for n in range(1, 13)], log_every_steps=5, total_steps=12)
    assert [line.split()[0] for line in lines] == ["step", "5/12", "10/12", "12/12"]


def test_a_line_reads_well_below_its_header() -> None:
    assert shown(record(1)) == [
        "   step    loss  domain  general       lr   gnorm   tok/s      ETA",
        "   1/60   3.490   3.600    3.100  1.8e-05    0.93     612     1:58",
    ]


def test_the_header_comes_again_when_it_has_left_the_screen() -> None:
    lines = shown(*[record(n) for n in range(1, 46)])
    assert [n for n, line in enumerate(lines) if "gnorm" in line] == [0, 21, 42]


def test_heldout_sets_are_compared_with_the_base_model() -> None:
    base = {"law": {"loss": 3.0, "perplexity": math.exp(3.0), "tokens": 100}}
    final = {"law": {"loss": 2.8, "perplexity": math.exp(2.8), "tokens": 100}}
    lines = shown({"step": 0, "heldout": base}, {"step": 9, "heldout": final})
    assert lines == [
        "  held-out law  loss 3.0000  perplexity 20.09  (base model)",
        "  held-out law  loss 2.8000  perplexity 16.44  base 20.09  x 0.819",
    ]


def test_a_resumed_run_still_knows_its_base() -> None:
    final = {"law": {"loss": 2.8, "perplexity": 16.44, "tokens": 100}}
    base: StepRecord = {"step": 0, "heldout": {"law": {**final["law"], "perplexity": 20.0}}}
    out = io.StringIO()
    Progress(60, log_every_steps=1, start_step=30, base=base, file=out).update(
        {"step": 31, "heldout": final}
    )
    assert out.getvalue().endswith("base 20.00  x 0.822\n")


def test_generations_are_quoted_in_few_lines_and_cannot_drive_the_terminal() -> None:
    lines = generation_lines([{"prompt": "Say", "text": "a\x1b[31m\n\n" + "word " * 99}], step=3)
    assert lines[0] == '  sample at step 3: "Say"'
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)


def test_what_the_output_cannot_encode_ends_no_run() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress = Progress(9, log_every_steps=1, start_step=0, file=out)
    progress.update({"step": 1, "generations": [{"prompt": "né", "text": "日本"}]})
    out.seek(0)
    assert out.read() == '  sample at step 1: "n?"\n    > ??\n'


@given(
    names=st.lists(st.text("abcdefgh-", min_size=1, max_size=40), unique=True, max_size=12),
    value=st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    total_steps=st.integers(1, 10**6),
)
def test_header_and_line_fit_80_columns_and_align(
    names: list[str], value: float, total_steps: int
) -> None:
    losses = dict.fromkeys(names, value)
    step: StepRecord = {"step": 1, "loss": value, "loss_per_source": losses, "grad_norm": value}
    header, line = table_rows(step_cells(step, total_steps=total_steps, eta="99d 23h"))
    assert len(header) == len(line) <= 80


@given(st.text())
def test_printable_is_one_line(text: str) -> None:
    assert printable(text).isprintable()


def test_number() -> None:
    assert number(3.14159, digits=3) == "3.142"
    assert number(123456.0, digits=3) == "1.23e+05"
    assert number(None, digits=3) == "-"
    assert number(math.nan, digits=3) == "nan"


def test_long_set_names_stay_within_80_columns() -> None:
    loss = {"loss": 9.9, "perplexity": 99999.0, "tokens": 1}
    lines = heldout_lines({"x" * 60: loss}, step=5, base={"x" * 60: loss})
    assert max(map(len, lines)) <= 80


SELAH = "Selah [2J <b>\ufffd\ufffd\ufffd</b> he that dwelleth"


def test_a_fault_is_told_in_few_short_lines_and_cannot_drive_the_terminal() -> None:
    lines = shown({**record(58), "fault": fault_event(step=58, policy="rollback")})
    assert lines[2:7] == [
        "  ! step 58: loss nan; back to step 40, passing over steps 55 to 58, learning",
        "    rate x 0.5",
        "    1 of 8 samples not finite, worst: sample 5, of psalms, document 812 from",
        "    token 40 on, loss nan",
        f"    > {SELAH} {SELAH[:-9]}",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_a_step_passed_over_is_one_line() -> None:
    event = fault_event(step=58, policy="rollback")
    lines = shown(
        {"step": 57, "passed_over": True}, {"step": 58, "passed_over": True, "fault": event}
    )
    assert lines == ["  step 58 passed over (loss nan before the rollback)"]


def test_after_a_rollback_the_bar_and_the_rate_begin_again() -> None:
    out, clock = io.StringIO(), Seconds()
    progress = Progress(60, log_every_steps=1, start_step=0, file=out, clock=clock)
    for step in range(1, 59):
        clock.now += 2.0
        progress.update(record(step))
    progress.announce(fault_event(step=59, policy="rollback"))
    progress.rewind(40)
    clock.now += 10.0
    progress.update(record(41))
    assert out.getvalue().splitlines()[-1].split()[-1] == "3:10"


def test_a_straggler_is_named_once() -> None:
    run = [r for r in records_with_faults()[80:] if "fault" not in r]
    lines = [line for line in shown(*run, total_steps=120) if "slow" in line or "median" in line]
    assert lines == [
        "  rank 13 on node07 is slow at step 91: 4.1 s a step,",
        "    1.7 times the median rank's 2.4 s (waits not counted)",
    ]
