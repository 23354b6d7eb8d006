# SPDX-License-Identifier: Apache-2.0
"""A run's whole gate: held-out losses and suites beside what was declared before training.

This is what ``verdict``, ``gate``, ``suites`` and ``flipped`` of RUN_DIR/evaluation.json are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from megacpt.config.declared import declared_suites, gate_fingerprint
from megacpt.config.sections import RunConfig
from megacpt.evaluate.gate import Check, Losses, Verdict, overall, verdict
from megacpt.evaluate.statistics.pairing import flips
from megacpt.evaluate.suite_gate import POINT, Role, Suite, judge, limit_of
from megacpt.text import listed

FLIPS_SHOWN = 200
"""Of a suite, the largest changes first, losses and gains alike."""


def judged(
    config: RunConfig,
    *,
    heldout: Mapping[str, Mapping[str, Losses]],
    suites: Mapping[str, Suite],
    declared: str | None,
) -> dict[str, Any]:
    """``declared``: the gate's fingerprint before the first step; None where it is not known."""
    evaluate = config.evaluate
    checks = [
        *verdict(heldout, gate=evaluate.gate, domain=evaluate.domain, general=evaluate.general),
        *unmeasured(suites, config=config),
    ]
    suite_checks = judge(suites, gate=evaluate.gate, seed=config.seed)
    late = declared is not None and declared != gate_fingerprint(config)
    return {
        "verdict": overall([c.verdict for c in checks] + [c.verdict for c in suite_checks]),
        "declared_late": late,
        "gate": [asdict(check) for check in checks],
        "suites": [asdict(check) for check in suite_checks],
        "flipped": {name: flipped(suite) for name, suite in suites.items()},
    }


def unmeasured(suites: Mapping[str, Suite], *, config: RunConfig) -> list[Check]:
    """A check for each limit whose suites were not all measured: nothing is passed by that."""
    declared = declared_suites(config)
    measured = {suite.role for suite in suites.values()}
    found = []
    for role in Role:
        limit = limit_of(role, gate=config.evaluate.gate)
        missing = [name for name, of in declared.items() if of == role and name not in suites]
        if limit is not None and (missing or role not in measured):
            found.append(_unmeasured(role, limit=limit, missing=missing))
    return found


def _unmeasured(role: Role, *, limit: float, missing: Sequence[str]) -> Check:
    of = listed(missing) if missing else "a suite of that role"
    remedy = "; run megacpt usefulness, then evaluate" if role is Role.usefulness else ""
    return Check(
        name=role.value,
        heldout_set=None,
        ratio=None,
        limit=limit / POINT,
        measured=None,
        unit="points",
        verdict=Verdict.not_enough_items,
        sentence=f"{role} not enough items: a limit is declared, and there is no score of {of}"
        f"{remedy}",
    )


def flipped(suite: Suite) -> Sequence[Mapping[str, object]]:
    """Items whose score changed, as many of the lost as of the gained."""
    found = flips(suite.base, candidate=suite.final)
    lost = [flip for flip in found if flip.candidate < flip.base]
    gained = [flip for flip in reversed(found) if flip.candidate > flip.base]
    return [asdict(flip) for flip in (*lost[: FLIPS_SHOWN // 2], *gained[: FLIPS_SHOWN // 2])]
