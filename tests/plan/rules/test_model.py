# SPDX-License-Identifier: Apache-2.0
"""What a model asks of the ranks' devices."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families.architecture import DeltaNet, Latent, Norms, Scales
from megacpt.plan.rules import model
from tests.plan.test_check import ARCHITECTURE, broken, config_of

NET = DeltaNet(layers=(0, 1), key_heads=2, value_heads=4, key_dim=16, value_dim=16, kernel=4)


def test_what_gpus_compute_is_not_refused() -> None:
    norms = Norms(plus_one=True, scaled_wide=True, after=True)
    scales = Scales(logits_cap=30.0, embedding=7.0, embedding_rounded=True)
    for changes in (
        {"norms": norms, "scales": scales},
        {"norms": Norms(centred=True, bias=True), "gated": False, "activation": "gelu"},
        {"norms": Norms(centred=True), "parallel_mlp": True},
        {"scales": Scales(attention_cap=50.0)},
        {"latent": Latent(query_rank=None, kv_rank=8, plain_dim=4, value_dim=4)},
        {"delta_net": NET},
    ):
        architecture = replace(ARCHITECTURE, **changes)
        config = config_of({"cluster.device": "gpu"})
        assert broken(model.RULES, config=config, architecture=architecture) == []
