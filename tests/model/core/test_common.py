# SPDX-License-Identifier: Apache-2.0
"""The loss taken from hidden states is that of the logits, and a failed pass leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.llama_cases import CASES, TOKENS_BS, write_llama
from tests.model.on_one_rank import loaded

pytestmark = pytest.mark.mcore


@pytest.mark.parametrize("case", ["tied-all-biases", "plain"])
def test_losses_are_those_of_the_logits(case: str, tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path, **CASES[case])
    model, architecture = loaded(tmp_path)
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    logits_BSV = model(TOKENS_BS, positions_BS, None)[..., : architecture.vocab_size]
    wanted = torch.nn.functional.cross_entropy(
        logits_BSV.flatten(0, 1), TOKENS_BS.flatten(), reduction="none"
    )
    weights_BS = torch.ones(TOKENS_BS.shape)
    losses_BS = model(TOKENS_BS, positions_BS, None, labels=TOKENS_BS, loss_mask=weights_BS)
    torch.testing.assert_close(losses_BS.flatten(), wanted, atol=2e-6, rtol=0.0)


def test_a_pass_that_fails_leaves_the_output_layer_in_use(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    model, _ = loaded(tmp_path)
    weights_BS = torch.ones(TOKENS_BS.shape)
    with pytest.raises(IndexError):
        model(TOKENS_BS + 1000, TOKENS_BS, None, labels=TOKENS_BS, loss_mask=weights_BS)
    assert model.post_process
