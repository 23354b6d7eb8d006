# SPDX-License-Identifier: Apache-2.0
"""Replies are learned from whole conversations."""

from __future__ import annotations

import pytest

from megacpt.config.sections import DataConfig, Objective, Packing, RunConfig
from megacpt.plan.rules import Facts
from megacpt.plan.rules.objective import RULES


@pytest.mark.parametrize(
    ("objective", "packing", "broken"),
    [
        (Objective.sft, Packing.concat, ["data.packing"]),
        (Objective.sft, Packing.best_fit, []),
        (Objective.pretraining, Packing.concat, []),
    ],
)
def test_conversations_stay_whole(
    objective: Objective, packing: Packing, broken: list[str]
) -> None:
    config = RunConfig(objective=objective, data=DataConfig(packing=packing))
    found = [violation for rule in RULES for violation in rule(Facts(config=config))]
    assert [violation.path for violation in found] == broken
    assert all("use data.packing=best_fit" in str(violation) for violation in found)
