# SPDX-License-Identifier: Apache-2.0
"""The gate passes what stays within the declared limits, and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.config.sections import GateConfig
from megacpt.errors import ConfigError
from megacpt.evaluate.gate import Check, Verdict, perplexity_ratio, verdict


def losses(loss: float) -> dict[str, float]:
    return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": 1000}


def judge(
    *, law: tuple[float, float], web: tuple[float, float], gate: GateConfig
) -> tuple[Check, Check]:
    heldout = {
        "law": {"base": losses(law[0]), "final": losses(law[1])},
        "web": {"base": losses(web[0]), "final": losses(web[1])},
    }
    domain, general = verdict(heldout, gate=gate, domain="law", general="web")
    return domain, general


GATE = GateConfig(domain_perplexity_ratio_max=0.92, general_perplexity_ratio_max=1.02)


def test_a_gain_without_forgetting_passes() -> None:
    domain, general = judge(law=(3.6, 3.4), web=(3.3, 3.31), gate=GATE)
    assert (domain.verdict, general.verdict) == (Verdict.passed, Verdict.passed)
    assert domain.sentence == (
        "domain gain passed: perplexity is 0.8187 of base, the declared limit is 0.92"
    )


def test_forgetting_fails_though_the_domain_gained() -> None:
    domain, general = judge(law=(3.6, 3.4), web=(3.3, 3.4), gate=GATE)
    assert (domain.verdict, general.verdict) == (Verdict.passed, Verdict.failed)


@given(base=st.floats(0, 800), final=st.floats(0, 800), limit=st.floats(0.1, 10))
def test_passed_means_the_ratio_is_at_most_the_limit(
    base: float, final: float, limit: float
) -> None:
    gate = GateConfig(domain_perplexity_ratio_max=limit)
    domain, general = judge(law=(base, final), web=(1.0, 1.0), gate=gate)
    assert domain.ratio == perplexity_ratio({"base": losses(base), "final": losses(final)})
    assert (domain.verdict is Verdict.passed) == (domain.ratio <= limit)
    assert general.verdict is Verdict.not_declared


def test_a_diverged_run_fails() -> None:
    domain, _ = judge(law=(3.6, math.nan), web=(3.3, 3.3), gate=GATE)
    assert domain.verdict is Verdict.failed


def test_nothing_declared_is_neither_passed_nor_failed() -> None:
    checks = verdict({}, gate=GateConfig(), domain=None, general=None)
    assert {check.verdict for check in checks} == {Verdict.not_declared}
    assert checks[0].sentence == "domain gain: was not measured; no limit was declared"


def test_a_check_goes_to_json_as_it_is() -> None:
    domain, _ = judge(law=(3.6, 3.6), web=(3.3, 3.3), gate=GATE)
    assert json.loads(json.dumps(asdict(domain)))["verdict"] == "failed"


@pytest.mark.parametrize("named", [None, "lwa"])
def test_a_limit_without_its_set_names_the_remedy(named: str | None) -> None:
    heldout = {"law": {"base": losses(1.0), "final": losses(1.0)}}
    with pytest.raises(ConfigError, match=r"set evaluate\.domain to one of: law"):
        verdict(heldout, gate=GATE, domain=named, general=None)


def test_forgetting_is_limited_in_nats() -> None:
    heldout = {"web": {"base": losses(3.3), "final": losses(3.35)}}
    for limit, result in ((0.04, "failed"), (0.06, "passed")):
        *_, check = verdict(
            heldout, gate=GateConfig(forgetting_max_nats=limit), domain=None, general="web"
        )
        assert check.verdict == result
        assert check.measured == pytest.approx(0.05)
        assert check.sentence == (
            f"forgetting {result}: +0.0500 nats a token, the declared limit is {limit:g}"
        )
    with pytest.raises(ConfigError, match=r"forgetting_max_nats=0\.06 judges the general"):
        verdict(heldout, gate=GateConfig(forgetting_max_nats=0.06), domain=None, general=None)


def test_a_run_that_diverged_has_forgotten() -> None:
    heldout = {"web": {"base": losses(3.3), "final": losses(math.nan)}}
    *_, check = verdict(
        heldout, gate=GateConfig(forgetting_max_nats=1.0), domain=None, general="web"
    )
    assert check.verdict is Verdict.failed
