# SPDX-License-Identifier: Apache-2.0
"""The loop of all twins beside a run of megacpt's own, with all weights trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adapter_cases.run import adamw_of, batches_of, write_run_inputs
from tests.adapter_cases.training import AdamW, Multipliers, Trained, load_base, train
from tests.run_on_ranks import run_on_ranks
from tests.train.curves import STEPS, parity_config

NOT_DECAYED = {"norm": Multipliers(decay=0.0)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("run")
    write_run_inputs(work, name="llama-tied")
    return work


def changes(work: Path) -> dict[str, Any]:
    return {"model": {"path": str(work / "model"), "init": "pretrained"}}


def whole(work: Path, *, optim: AdamW) -> Trained:
    batches = batches_of(parity_config(work, changes(work)), steps=STEPS)
    model = load_base(work / "model")
    parameters = dict(model.named_parameters())
    return train(model, parameters=parameters, batches=batches, optim=optim)


@pytest.mark.mcore
@pytest.mark.slow
def test_losses_and_norms_are_those_of_a_run(work: Path) -> None:
    run_on_ranks("tests.train.curves:write_curves", work, world=1, cases={"run": changes(work)})
    (curve,) = json.loads((work / "curves-1.json").read_text()).values()
    optim = adamw_of(parity_config(work, changes(work)), steps=STEPS, multipliers=NOT_DECAYED)
    twin = whole(work, optim=optim)
    np.testing.assert_allclose(twin.losses, [row[0] for row in curve], rtol=1e-5)
    np.testing.assert_allclose(twin.gradient_norms, [row[1] for row in curve], rtol=1e-4)
    for other in (replace(optim, clip_grad_norm=0.0), replace(optim, beta2=0.999)):
        losses = whole(work, optim=other).losses
        assert not np.allclose(losses, twin.losses, rtol=1e-4)
