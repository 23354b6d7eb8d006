# SPDX-License-Identifier: Apache-2.0
"""What a model asks of the ranks' devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.families.architecture import DeltaNet, Latent, Norms, Scales
from megacpt.plan.rules import model
from megacpt.plan.rules.model import advice_for_gpus
from tests.plan.test_check import ARCHITECTURE, broken, config_of

NET = DeltaNet(layers=(0, 1), key_heads=2, value_heads=4, key_dim=16, value_dim=16, kernel=4)
LATENT = Latent(query_rank=None, kv_rank=8, plain_dim=4, value_dim=4)


def test_what_gpus_compute_is_not_refused() -> None:
    norms = Norms(plus_one=True, scaled_wide=True, after=True)
    scales = Scales(logits_cap=30.0, embedding=7.0, embedding_rounded=True)
    changes: tuple[dict[str, Any], ...] = (
        {"norms": norms, "scales": scales},
        {"norms": Norms(centred=True, bias=True), "gated": False, "activation": "gelu"},
        {"norms": Norms(centred=True), "parallel_mlp": True},
        {"scales": Scales(attention_cap=50.0)},
        {"latent": LATENT},
        {"delta_net": NET},
    )
    for changed in changes:
        architecture = replace(ARCHITECTURE, **changed)
        config = config_of({"cluster.device": "gpu"})
        assert broken(model.RULES, config=config, architecture=architecture) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"scales": Scales(attention_cap=50.0)},
            "a bound of attention scores (attn_logit_softcapping=50.0)",
        ),
        ({"delta_net": NET}, "gated delta nets"),
        ({"latent": LATENT, "norms": Norms(centred=True)}, None),
    ],
)
def test_what_no_kernel_computes_is_said(changes: dict[str, Any], what: str | None) -> None:
    architecture = replace(ARCHITECTURE, **changes)
    on_gpus, on_cpus = (config_of({"cluster.device": device}) for device in ("gpu", "cpu"))
    assert list(advice_for_gpus(on_cpus, model=architecture)) == []
    expected = f"cluster.device=gpu: a llama model has {what}, for which Transformer Engine has no "
    expected += "kernel; torch's operations compute it, which takes longer."
    assert list(advice_for_gpus(on_gpus, model=architecture)) == ([expected] if what else [])
