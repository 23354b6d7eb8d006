# SPDX-License-Identifier: Apache-2.0
"""Planted NaNs and spikes under every policy, on several layouts, with kills before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.guard.fault_runs import (
    BAD_STEP,
    curve,
    outcome,
    records,
    settings,
    train_all,
    write_inputs,
)

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2-zero1-overlap": {
        "dp": 2,
        "distributed_optimizer": True,
        "overlap_grad_reduce": True,
        "overlap_param_gather": True,
    },
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
}


def cut(run: dict[str, Any], *, name: str, after: int, event_written: bool) -> dict[str, Any]:
    """``run`` killed with its newest checkpoint at step ``after``, and started again."""
    folder = Path(run["run_dir"])
    how = {"of": folder.name, "after": after, "event_written": event_written}
    return {**run, "run_dir": str(folder.with_name(name)), "cut": how}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One start of ranks for each number of them."""
    work = tmp_path_factory.mktemp("faults")
    write_inputs(work)
    train_all(work, {1: runs_of_one_rank(work), 2: runs_of_two_ranks(work)})
    return work


def runs_of_one_rank(work: Path) -> list[dict[str, Any]]:
    nan = settings(work, run="nan-rollback", bad="broken")
    spike = settings(work, run="spike-skip", bad="garbage")
    early = settings(work, run="nan-early", bad="broken")
    early["checkpoint"] = {"every_steps": 100, "keep_last": 2}
    adapter = {"adapter": {"method": "pissa", "rank": 4}}
    return [
        nan,
        spike,
        early,
        {**nan, **adapter, "run_dir": str(work / "adapter-nan-rollback")},
        {**early, **adapter, "run_dir": str(work / "adapter-nan-early")},
        settings(work, run="nan-skip", bad="broken", nonfinite="skip"),
        settings(work, run="nan-stop", bad="broken", nonfinite="stop"),
        settings(work, run="spike-ignored", bad="garbage", spike="ignore"),
        settings(
            work, run="spike-rollback", bad="garbage", spike="rollback", rollback_lr_factor=0.5
        ),
        cut(nan, name="nan-rollback-cut-before", after=12, event_written=False),
        cut(nan, name="nan-rollback-cut-after", after=18, event_written=True),
        cut(spike, name="spike-skip-cut", after=18, event_written=True),
    ]


def runs_of_two_ranks(work: Path) -> list[dict[str, Any]]:
    wanted = [
        *[("dp2-zero1-overlap", which) for which in ("nan-rollback", "nan-skip", "spike-skip")],
        *[("tp2", which) for which in ("nan-skip", "spike-skip")],
        ("pp2", "nan-rollback"),
    ]
    found = []
    for layout, which in wanted:
        kind, policy = which.split("-")
        bad = {"nan": "broken", "spike": "garbage"}[kind]
        run = settings(work, run=f"{layout}-{which}", bad=bad, nonfinite=policy)
        found.append({**run, "parallel": LAYOUTS[layout]})
    return [*found, cut(found[0], name="dp2-cut-before", after=12, event_written=False)]


def fault_of(work: Path, run: str) -> dict[str, Any]:
    fault: dict[str, Any] = records(work / run)[BAD_STEP]["fault"]
    return fault


@pytest.mark.mcore
@pytest.mark.slow
def test_a_skipped_step_leaves_no_trace_but_its_record(work: Path) -> None:
    record = records(work / "nan-skip")[BAD_STEP]
    assert record["loss"] is None
    assert record["fault"]["policy"] == "skip"
    before, after = records(work / "nan-skip")[BAD_STEP - 1 : BAD_STEP + 1]
    assert after["tokens_per_source"] == before["tokens_per_source"]
    assert after["samples_per_source"] == before["samples_per_source"]
    assert after["skipped_samples_per_source"] == {"letters": 3, "broken": 1}
    # What the step held is the only difference between a NaN and a garbage batch.
    spikes = records(work / "spike-skip")
    for nan, spike in zip(records(work / "nan-skip"), spikes, strict=True):
        if nan["step"] not in (0, BAD_STEP):
            assert (nan["loss"], nan["grad_norm"]) == (spike["loss"], spike["grad_norm"])
    assert outcome(work / "nan-skip")["weights"] == outcome(work / "spike-skip")["weights"]


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["dp2-zero1-overlap", "tp2"])
def test_skipping_is_the_same_whatever_was_wrong_on_every_layout(work: Path, layout: str) -> None:
    """So no NaN has reached weights or moments, of any rank's part of them."""
    nan, spike = f"{layout}-nan-skip", f"{layout}-spike-skip"
    assert outcome(work / nan)["weights"] == outcome(work / spike)["weights"]
    assert fault_of(work, nan)["policy"] == fault_of(work, spike)["policy"] == "skip"


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize(
    "run", ["nan-rollback", "dp2-zero1-overlap-nan-rollback", "pp2-nan-rollback"]
)
def test_a_rollback_passes_over_the_bad_step_and_the_one_before(work: Path, run: str) -> None:
    found = records(work / run)
    assert [r["step"] for r in found if r.get("passed_over")] == [BAD_STEP - 1, BAD_STEP]
    fault = found[BAD_STEP]["fault"]
    assert (fault["policy"], fault["restart_step"], fault["value"]) == ("rollback", 18, "nan")
    assert found[-1]["loss"] < 2.5
    assert found[-1]["skipped_samples_per_source"] == {"letters": 7, "broken": 1}
    assert found[-1]["samples_per_source"] == {"letters": 88, "broken": 0}
    assert outcome(work / run)["error"] == ""


@pytest.mark.mcore
@pytest.mark.slow
def test_before_the_first_checkpoint_a_rollback_is_a_new_start(work: Path) -> None:
    assert fault_of(work, "nan-early")["restart_step"] == 0
    assert outcome(work / "nan-early")["weights"] == outcome(work / "nan-rollback")["weights"]


@pytest.mark.mcore
@pytest.mark.slow
def test_an_adapter_rolls_back_onto_its_base(work: Path) -> None:
    """To a checkpoint, which holds no base, or to what it began with."""
    late, early = (work / f"adapter-nan-{name}" for name in ("rollback", "early"))
    assert records(late)[BAD_STEP]["fault"]["restart_step"] == 18
    assert records(early)[BAD_STEP]["fault"]["restart_step"] == 0
    losses = [r.get("loss") for r in records(late)]
    assert losses == [r.get("loss") for r in records(early)]
    assert losses[-1] < losses[1]
    assert outcome(early)["weights"] == outcome(late)["weights"]


@pytest.mark.mcore
@pytest.mark.slow
def test_a_rollback_cuts_the_rate_from_its_checkpoint_on(work: Path) -> None:
    cut_rates = [r.get("lr") for r in records(work / "spike-rollback")]
    rates = [r.get("lr") for r in records(work / "spike-ignored")]
    for step in range(1, 25):
        if step not in (BAD_STEP - 1, BAD_STEP):
            assert cut_rates[step] == (1.0 if step <= 18 else 0.5) * rates[step]


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "killed"),
    [
        ("nan-rollback", "nan-rollback-cut-before"),
        ("nan-rollback", "nan-rollback-cut-after"),
        ("spike-skip", "spike-skip-cut"),
        ("dp2-zero1-overlap-nan-rollback", "dp2-cut-before"),
    ],
)
def test_a_killed_run_goes_the_same_way_bit_for_bit(work: Path, run: str, killed: str) -> None:
    """Killed before the event was on the disk, so that it happens again, or after."""
    assert curve(work / killed) == curve(work / run)
    assert outcome(work / killed) == outcome(work / run)
    faults = [(work / name / "faults.jsonl").read_text() for name in (run, killed)]
    assert faults[0] == faults[1]


@pytest.mark.mcore
@pytest.mark.slow
def test_a_stop_explains_itself_and_writes_nothing_over(work: Path) -> None:
    error = outcome(work / "nan-stop")["error"]
    assert error.startswith(f"step {BAD_STEP}: loss nan; its update was not applied")
    assert "faults.nonfinite=stop asks for it" in error
    assert records(work / "nan-stop")[-1]["fault"]["policy"] == "stop"
    newest = sorted(path.name for path in (work / "nan-stop" / "checkpoints").glob("step_*"))[-1]
    assert newest == "step_00000018"


@pytest.mark.mcore
@pytest.mark.slow
def test_an_ignored_spike_is_trained_on(work: Path) -> None:
    found = records(work / "spike-ignored")
    assert not any("fault" in record for record in found)
    assert found[BAD_STEP]["loss"] > 1.5 * found[BAD_STEP - 1]["loss"]
    assert found[-1]["samples_per_source"] == {"letters": 95, "garbage": 1}


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize(
    ("nan_run", "spike_run"),
    [
        ("nan-skip", "spike-skip"),
        ("dp2-zero1-overlap-nan-skip", "dp2-zero1-overlap-spike-skip"),
        ("tp2-nan-skip", "tp2-spike-skip"),
        ("pp2-nan-rollback", "spike-skip"),
    ],
)
def test_the_guilty_sample_is_named_first_with_its_text(
    work: Path, nan_run: str, spike_run: str
) -> None:
    nan, spike = fault_of(work, nan_run), fault_of(work, spike_run)
    assert nan["sources"] == {"letters": 3, "broken": 1}
    assert nan["nonfinite_samples"] == 1
    assert spike["value"] > spike["threshold"]
    for fault, source in ((nan, "broken"), (spike, "garbage")):
        first, *others = fault["samples"]
        assert first["source"] == source
        assert {sample["source"] for sample in others} == {"letters"}
        assert all(other["loss"] < 3 for other in others)
        assert sum(part["tokens"] for part in first["documents"]) == 33
    assert nan["samples"][0]["loss"] == "nan"
    assert "\N{REPLACEMENT CHARACTER}" in nan["samples"][0]["excerpt"]
