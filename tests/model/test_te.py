# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine is told of the documents in its own terms; it ignores masks given as tensors.

Its Python libraries find CUDA's by LD_LIBRARY_PATH, which the environment of the tests has to set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.model.te_documents import BOUNDS
from tests.run_on_ranks import run_on_ranks
from tests.support import LLAMA, write_model_folder

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own: the others make megatron-core believe there is no such library."""
    if run_python("-c", "import transformer_engine.pytorch").returncode != 0:
        pytest.skip("Transformer Engine cannot be imported")
    work = tmp_path_factory.mktemp("te")
    write_model_folder(work / "model")
    run_on_ranks("tests.model.te_documents:describe", work, world=1, cases=None, timeout_s=900.0)
    result: dict[str, Any] = torch.load(work / "found.pt")
    return result


def test_the_layers_are_its_own(found: dict[str, Any]) -> None:
    assert (found["core_attention"], found["rope_is_fused"]) == ("TEDotProductAttention", True)


def test_fused_attention_gets_the_bounds_of_the_documents(found: dict[str, Any]) -> None:
    assert len(found["calls"]) == LLAMA["num_hidden_layers"]
    for call in found["calls"]:
        assert call["qkv_layout"] == "thd_thd_thd"
        assert call["attn_mask_type"] == "padding_causal"
        assert (call["max_seqlen_q"], call["max_seqlen_kv"]) == (31, 31)
        for side in ("q", "kv"):
            bounds = call[f"cu_seqlens_{side}"]
            assert (bounds.dtype, bounds.tolist()) == (torch.int32, BOUNDS)
        # No padding between documents, no window: (-1, 0) is unlimited to the left.
        assert (call["cu_seqlens_q_padded"], call["pad_between_seqs"]) == (None, False)
        assert call["window_size"] == (-1, 0)


def test_logits_equal_those_of_the_plain_layers(found: dict[str, Any]) -> None:
    torch.testing.assert_close(found["logits"], found["expected_logits"], atol=2e-5, rtol=0.0)
