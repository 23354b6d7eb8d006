# SPDX-License-Identifier: Apache-2.0
"""The gate on held-out text: losses beside the base model's, and the limits declared for them.

Suites of items are judged in megacpt.evaluate.suite_gate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from megacpt.config.sections import GateConfig
from megacpt.errors import ConfigError, Violation

Losses = Mapping[str, float]
"""``loss``, ``perplexity`` and ``tokens`` of one held-out set."""


class Verdict(StrEnum):
    """``not declared``: no limit was set before training, so nothing can be passed. ``not enough
    items``: what was measured is compatible with both."""

    passed = "passed"
    failed = "failed"
    not_enough_items = "not enough items"
    not_declared = "not declared"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a run: passed where all that is declared is, failed where anything is."""
    found = set(verdicts)
    for verdict in (Verdict.failed, Verdict.not_enough_items, Verdict.passed):
        if verdict in found:
            return verdict
    return Verdict.not_declared


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit. ``ratio``: final over base perplexity, None where the set is not named."""

    name: str
    heldout_set: str | None
    ratio: float | None
    limit: float | None
    """Of ``measured``, which is the ratio, or the difference of the losses in nats a token."""
    measured: float | None
    unit: str
    verdict: Verdict
    sentence: str


def verdict(
    heldout: Mapping[str, Mapping[str, Losses]],
    *,
    gate: GateConfig,
    domain: str | None,
    general: str | None,
) -> list[Check]:
    """``heldout``: set -> ``base`` and ``final`` -> losses. One check a limit that can be set."""
    return [
        _check(
            "domain gain",
            heldout=heldout,
            heldout_set=domain,
            role="domain",
            limit=gate.domain_perplexity_ratio_max,
        ),
        _check(
            "general retention",
            heldout=heldout,
            heldout_set=general,
            role="general",
            limit=gate.general_perplexity_ratio_max,
        ),
        *_forgetting(heldout, heldout_set=general, limit=gate.forgetting_max_nats),
    ]


def _forgetting(
    heldout: Mapping[str, Mapping[str, Losses]], *, heldout_set: str | None, limit: float | None
) -> Iterator[Check]:
    """The same difference as the general set's ratio, for who thinks in nats."""
    if limit is None:
        return
    if heldout_set is None or heldout_set not in heldout:
        raise _limit_without_set(
            "forgetting_max_nats", role="general", limit=limit, known=sorted(heldout)
        )
    losses = heldout[heldout_set]
    nats = losses["final"]["loss"] - losses["base"]["loss"]
    result = Verdict.passed if nats <= limit else Verdict.failed
    yield Check(
        name="forgetting",
        heldout_set=heldout_set,
        ratio=perplexity_ratio(losses),
        limit=limit,
        measured=nats,
        unit="nats a token",
        verdict=result,
        sentence=f"forgetting {result}: {nats:+.4f} nats a token, the declared limit is {limit:g}",
    )


def _check(
    name: str,
    *,
    heldout: Mapping[str, Mapping[str, Losses]],
    heldout_set: str | None,
    role: str,
    limit: float | None,
) -> Check:
    if limit is not None and (heldout_set is None or heldout_set not in heldout):
        raise _limit_without_set(
            f"{role}_perplexity_ratio_max", role=role, limit=limit, known=sorted(heldout)
        )
    ratio = None if heldout_set is None else perplexity_ratio(heldout[heldout_set])
    result = _judge(ratio, limit=limit)
    return Check(
        name=name,
        heldout_set=heldout_set,
        ratio=ratio,
        limit=limit,
        measured=ratio,
        unit="perplexity ratio",
        verdict=result,
        sentence=_sentence(name, ratio=ratio, limit=limit, result=result),
    )


def perplexity_ratio(losses: Mapping[str, Losses]) -> float:
    """Final over base, from the losses: exact where the perplexities themselves overflow."""
    difference = losses["final"]["loss"] - losses["base"]["loss"]
    return math.exp(difference) if difference < 700 else math.inf


def _judge(ratio: float | None, *, limit: float | None) -> Verdict:
    if limit is None:
        return Verdict.not_declared
    # A ratio that is not a number is a run that diverged: it compares as false and fails.
    return Verdict.passed if ratio is not None and ratio <= limit else Verdict.failed


def _sentence(name: str, *, ratio: float | None, limit: float | None, result: Verdict) -> str:
    measured = "was not measured" if ratio is None else f"perplexity is {ratio:.4f} of base"
    if limit is None:
        return f"{name}: {measured}; no limit was declared"
    return f"{name} {result}: {measured}, the declared limit is {limit:g}"


def _limit_without_set(setting: str, *, role: str, limit: float, known: list[str]) -> ConfigError:
    return ConfigError(
        [
            Violation(
                path=f"evaluate.gate.{setting}",
                value=limit,
                rule=f"judges the {role} held-out set, which evaluate.{role} does not name",
                remedy=f"set evaluate.{role} to one of: {', '.join(known) or '(none declared)'}",
            )
        ]
    )
