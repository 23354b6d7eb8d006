# SPDX-License-Identifier: Apache-2.0
"""RUN_DIR/metrics.jsonl: one JSON object a step, never two of one step, whatever killed the run.

A run that is killed and started again resumes from its checkpoint, which is older than the last
step it logged. ``MetricsLog`` drops what lies beyond the checkpoint before it appends, so that the
file of a run killed ten times is that of a run never killed. A last line cut short by the kill
counts as never written.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Required, TypedDict, cast

from megacpt.errors import DataError, EnvironmentError_
from megacpt.files import write_text


class HeldoutLoss(TypedDict):
    """Mean loss in nats a predicted token, its exponential, and how many tokens were predicted."""

    loss: float
    perplexity: float
    tokens: int


class BenchmarkMean(TypedDict):
    """``mean`` of ``num_items`` items, by the suite's ``metric``; more is better."""

    metric: str
    mean: float
    num_items: int


class Generation(TypedDict):
    """A spot check: ``text`` is what the model wrote after ``prompt``."""

    prompt: str
    text: str


class RankTimes(TypedDict):
    """Each rank's own time a step, over the last few: see megacpt.train.guard.straggler."""

    median_s: float
    slowest_s: float
    slowest_rank: int
    slowest_host: str
    straggles: bool
    """The slowest is beyond ``faults.straggler_factor`` times the median."""


class DocumentPart(TypedDict):
    """Tokens ``first_token`` up to ``first_token + tokens - 1`` of document ``document``."""

    document: int
    first_token: int
    tokens: int


class FaultSample(TypedDict):
    """A sample of the global batch of a fault."""

    source: str
    position: int
    """In the global batch."""
    loss: float | str
    """Mean over its tokens; ``nan`` or ``inf`` as text."""
    documents: list[DocumentPart]
    excerpt: str


class FaultRecord(TypedDict):
    """A step whose loss or gradient norm was not finite or a spike, and what was done about it."""

    step: int
    kind: str
    """``nonfinite`` or ``spike``."""
    what: str
    """``loss`` or ``grad_norm``."""
    value: float | str
    """``nan`` or ``inf`` as text."""
    threshold: float | None
    """Of a spike."""
    policy: str
    """What was done: ``skip``, ``rollback`` or ``stop``."""
    reason: str
    """Of a stop; empty otherwise."""
    restart_step: int | None
    """Of a rollback: the checkpoint's step."""
    passed_steps: list[int]
    """Of a rollback: steps that are passed over from then on."""
    lr_factor: float
    """Of a rollback: on the rate of all steps after ``restart_step``."""
    sources: dict[str, int]
    """Samples of each source in the global batch."""
    nonfinite_samples: int
    """Of them, those whose own loss is not finite; all of them: the weights are bad."""
    samples: list[FaultSample]
    """The worst few, worst first."""


class StepRecord(TypedDict, total=False):
    """What is known after a step; step 0 is the untouched base model and has no training part."""

    step: Required[int]
    loss: float
    loss_per_source: dict[str, float]
    tokens_per_source: dict[str, int]
    """Cumulative."""
    samples_per_source: dict[str, int]
    """Cumulative, without those of steps that were skipped or passed over."""
    skipped_samples_per_source: dict[str, int]
    """Cumulative: of steps that were skipped or passed over; not set before the first one."""
    replay_share: float
    """Replay's part of all tokens so far."""
    stage: str
    """The entry of ``data.stages`` the step was in; not set before the first one."""
    sequence_length: int
    grad_norm: float
    lr: float
    tokens: int
    """Cumulative, valid targets only."""
    tokens_per_s: float
    mfu: float
    step_s: float
    data_wait_s: float
    """Part of ``step_s`` in which the step's samples were not there yet."""
    elapsed_s: float
    checkpoint_stall_s: float
    """For which training stood still for checkpoints, since the record before."""
    checkpoint_write_s: float
    """Set where a checkpoint was published since the record before: how long that took in all."""
    peak_memory_gib: float
    arithmetic: str
    """Set where products are quantised; an emulation is called one."""
    rank_times: RankTimes
    """Not set in a run of one rank."""
    fault: FaultRecord
    """Of this step; where the step was passed over, from the time before the rollback."""
    passed_over: bool
    """After a rollback: the step's samples were not trained on, so there is no loss."""
    heldout: dict[str, HeldoutLoss]
    forgetting: float
    """General held-out loss minus the base model's, in nats."""
    generations: list[Generation]
    benchmarks: dict[str, BenchmarkMean]
    """By suite; single items are in RUN_DIR/benchmarks."""


class MetricsLog:
    """Appends records; each is on its way to the disk when ``log`` returns."""

    def __init__(self, path: Path, *, resume_after_step: int | None) -> None:
        """Keep the records up to ``resume_after_step``; ``None`` starts from an empty file."""
        self.path = path
        self.kept = _records_up_to(path, step=resume_after_step)
        self._last_step = self.kept[-1]["step"] if self.kept else -1
        write_text(path, text="".join(_line(record) for record in self.kept))
        try:
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise _unwritable(path, error=error) from error

    def log(self, record: StepRecord) -> None:
        assert record["step"] > self._last_step, f"step {record['step']} is already in {self.path}"
        self._last_step = record["step"]
        try:
            self._file.write(_line(record))
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error=error) from error

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[StepRecord]:
    """All whole records, in order of steps; a last line without its newline is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: this run has measured nothing yet; "
            "start it with `megacpt train` and try again"
        ) from None
    whole_lines = text.split("\n")[:-1]
    return [_parsed(line, path=path, number=n) for n, line in enumerate(whole_lines, start=1)]


def _records_up_to(path: Path, *, step: int | None) -> list[StepRecord]:
    if step is None or not path.exists():
        return []
    return [record for record in read_metrics(path) if record["step"] <= step]


def _parsed(line: str, *, path: Path, number: int) -> StepRecord:
    try:
        record = json.loads(line)
        if isinstance(record["step"], int):
            return cast(StepRecord, record)
    except (ValueError, TypeError, KeyError):
        pass
    raise DataError(
        f"{path} line {number} is not a record of a step ({line[:40]!r}); "
        "the file was changed by something else: remove that line or restore the file"
    )


def _line(record: StepRecord) -> str:
    return json.dumps(json_safe(record), ensure_ascii=False, allow_nan=False) + "\n"


def json_safe(value: object) -> object:
    """JSON has no NaN or infinity; a diverged number becomes null, so that any reader copes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item) for item in value]
    return value


def _unwritable(path: Path, *, error: OSError) -> EnvironmentError_:
    return EnvironmentError_(
        f"{path} cannot be written ({error.strerror}); free space or fix its permissions, "
        "then start the same command again: the run resumes"
    )
