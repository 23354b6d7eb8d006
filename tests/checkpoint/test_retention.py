# SPDX-License-Identifier: Apache-2.0
"""What stays: the last, every so many steps, the best; and never nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.retention import Retention, loss_of, retention_of
from megacpt.config.compose import compose
from megacpt.plan.check import violations

MEASURED = ["checkpoint.keep_best=true", "evaluate.every_steps=8", "checkpoint.every_steps=8"]


def manifest(step: int, loss: float | None = None) -> CheckpointManifest:
    return CheckpointManifest(
        step=step,
        start=1,
        architecture={},
        layout={},
        data={},
        tokens_per_source={},
        elapsed_s=0.0,
        base_heldout=None,
        heldout=None if loss is None else {"law": loss, "other": -loss},
        faults={},
        files={},
    )


def kept(losses: dict[int, float | None], policy: Retention) -> dict[int, str]:
    return policy.kept([manifest(step, losses[step]) for step in sorted(losses, reverse=True)])


def test_reasons_add_up() -> None:
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: None, 50: 1.5}
    policy = Retention(keep_last=1, keep_every_steps=20, best_of="law")
    assert kept(losses, policy) == {20: "best", 40: "every 20", 50: "last"}


def test_best_needs_a_measured_number_and_the_newest_of_equals_wins() -> None:
    policy = Retention(keep_last=1, best_of="law")
    assert kept({10: None, 20: float("nan"), 30: 1.0}, policy) == {30: "last"}
    assert kept({10: 1.0, 20: 1.0, 30: 2.0}, policy) == {20: "best", 30: "last"}
    assert kept({10: 1.0, 20: 2.0}, Retention(keep_last=1, best_of="law2")) == {20: "last"}


@given(
    losses=st.dictionaries(st.integers(1, 60), st.none() | st.floats(), min_size=1),
    keep_last=st.integers(-1, 5),
    every=st.integers(0, 20),
    best_of=st.none() | st.just("law"),
)
def test_the_newest_always_stays(
    losses: dict[int, float | None], keep_last: int, every: int, best_of: str | None
) -> None:
    policy = Retention(keep_last=keep_last, keep_every_steps=every, best_of=best_of)
    found = kept(losses, policy)
    assert max(losses) in found
    assert found.keys() <= losses.keys()
    assert len(found) >= min(max(keep_last, 1), len(losses))


def test_policy_of_a_run() -> None:
    config = compose(["experiment=tiny", "checkpoint.keep_last=3", *MEASURED])
    best_of = loss_of(config.evaluate)
    assert best_of == config.evaluate.domain
    assert retention_of(config.checkpoint, best_of=best_of) == Retention(
        keep_last=3, best_of=best_of
    )
    config.evaluate.domain = None
    assert loss_of(config.evaluate) == config.evaluate.general


def test_best_of_what_is_never_measured_is_refused() -> None:
    config = compose(["experiment=tiny", "schedule.steps=24", *MEASURED])
    assert violations(config) == []
    config.evaluate.every_steps = 7
    (found,) = violations(config)
    assert str(found) == (
        "checkpoint.keep_best=True never meets a step that is both saved (every 8) and measured "
        "(evaluate.every_steps=7); let evaluate.every_steps divide checkpoint.every_steps"
    )
    config.evaluate.domain = config.evaluate.general = None
    assert [v.rule for v in violations(config)] == ["needs a held-out set to compare by"]
