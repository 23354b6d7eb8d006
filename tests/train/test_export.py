# SPDX-License-Identifier: Apache-2.0
"""A run of any layout exports one folder, and transformers finds in it the losses we reported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from megacpt.samples.heldout import HeldoutSet
from tests.forked import PYTHON

SEQUENCE_LENGTH = 64
SETTINGS = [
    "experiment=tiny",
    "schedule.steps=4",
    f"data.sequence_length={SEQUENCE_LENGTH}",
    "cluster.device=cpu",
    "monitor.wandb=disabled",
]

pytestmark = [pytest.mark.mcore, pytest.mark.slow]


def megacpt(*words: str) -> None:
    command = [PYTHON, "-m", "megacpt", *words]
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)


def trained(run_dir: Path, layout: list[str]) -> Path:
    megacpt("train", f"run_dir={run_dir}", *SETTINGS, *layout)
    megacpt("export", str(run_dir))
    assert json.loads((run_dir / "hf" / "certificate.json").read_text())["certified"]
    return run_dir


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "one", [])


def test_cut_padded_and_staged_checkpoint_exports_whole(one_rank: Path, tmp_path: Path) -> None:
    """tp=2 pads the vocabulary of 257 to 258; pp=2 deals the layers to two stages."""
    four = trained(tmp_path / "four", ["parallel.tp=2", "parallel.pp=2"])
    expected = load_file(one_rank / "hf" / "model.safetensors")
    found = load_file(four / "hf" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Four AdamW steps at lr 3e-3 turn fp32 rounding of sums into at most about 1e-6.
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-5, err_msg=name)
    # The export went through megatron-core's model; read without one, the bits are the same.
    megacpt("verify", str(four), str(four / "hf"))


def test_the_card_is_read_by_the_hub_s_library(one_rank: Path) -> None:
    card = ModelCard.load(one_rank / "hf" / "README.md")
    last = json.loads((one_rank / "metrics.jsonl").read_text().splitlines()[-1])
    losses = {r.dataset_type: r.metric_value for r in card.data.eval_results[::2]}
    assert losses == {n: pytest.approx(v["loss"], abs=1e-6) for n, v in last["heldout"].items()}
    assert f"{last['tokens']:,} tokens, 4 steps" in card.text


def loss_by_transformers(
    folder: Path, *, prefix: Path, sequence_length: int, max_tokens: int
) -> tuple[float, int]:
    """Mean over the tokens of a held-out set, and how many these are."""
    heldout = HeldoutSet.open(prefix, sequence_length=sequence_length, max_tokens=max_tokens)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    total, tokens = 0.0, 0
    for position in range(heldout.num_samples):
        batch = heldout.load([position])
        with torch.no_grad():
            logits_SV = model(torch.from_numpy(batch.tokens_BS)).logits[0]
        losses_S = torch.nn.functional.cross_entropy(
            logits_SV, torch.from_numpy(batch.labels_BS[0]), reduction="none"
        )
        total += float((losses_S * torch.from_numpy(batch.loss_mask_BS[0])).sum())
        tokens += int(batch.loss_mask_BS.sum())
    return total / tokens, tokens


@pytest.mark.parametrize("name", ["plant", "kitchen"])
def test_transformers_reproduces_the_reported_loss(one_rank: Path, name: str) -> None:
    last = json.loads((one_rank / "metrics.jsonl").read_text().splitlines()[-1])
    reported = last["heldout"][name]
    found, tokens = loss_by_transformers(
        one_rank / "hf",
        prefix=one_rank / "data" / f"heldout-{name}",
        sequence_length=SEQUENCE_LENGTH,
        max_tokens=reported["tokens"],
    )
    assert tokens == reported["tokens"]
    # Both compute in fp32; the means of thousands of losses agree far closer than one loss does.
    assert found == pytest.approx(reported["loss"], abs=1e-5)
