# SPDX-License-Identifier: Apache-2.0
"""Layers that take their own of several rotations: recomputed they are the same, and a document's
length alone says how it turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import Dtype, PrecisionConfig, Recompute
from tests.family_cases import Layout, cases
from tests.model.case_outputs import build, microbatch

pytestmark = pytest.mark.mcore

CASES = ("ropes-longrope-of-documents", "ropes-ministral3", "norms-olmo3")


def gradients(folder: Path, *, recompute: Recompute) -> dict[str, torch.Tensor]:
    from megacpt.config.sections import RunConfig
    from megacpt.families import read_architecture
    from megacpt.model.forward import run_microbatches
    from megacpt.model.weights import load_hf
    from megacpt.train.state import wrap_for_training

    layout = Layout(ranks=1, parallel={"recompute": recompute})
    architecture = read_architecture(folder)
    chunks = build(architecture, layout=layout, dtype=Dtype.fp32)
    load_hf(chunks, folder=folder, architecture=architecture)
    config = RunConfig(parallel=layout.config, precision=PrecisionConfig(dtype=Dtype.fp32))
    state: Any = wrap_for_training(
        chunks,
        parallel=config.parallel,
        precision=config.precision,
        optim=config.optim,
        device=torch.device("cpu"),
    )
    run_microbatches(
        state.chunks, microbatches=[microbatch(packed=True)], num_sources=1, forward_only=False
    )
    return {n: p.main_grad.clone() for c in state.chunks for n, p in c.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_recomputed_layers_have_the_same_gradients(
    case: str, tmp_path: Path, one_rank: None
) -> None:
    cases()[case].write(tmp_path)
    expected = gradients(tmp_path, recompute=Recompute.none)
    for recompute in (Recompute.selective, Recompute.full):
        found = gradients(tmp_path, recompute=recompute)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_a_document_is_short_or_long_whatever_lies_beside_it(one_rank: None) -> None:
    from megacpt.families.architecture import Architecture
    from megacpt.families.rope import LongRopeScaling
    from megacpt.model.layers.attention.causal import packed_documents
    from megacpt.model.layers.attention.rotation import rotation_of

    scaling = LongRopeScaling(
        short_factors=(1.0,) * 4,
        long_factors=(2.0,) * 4,
        original_max_positions=5,
        attention_factor=1.0,
    )
    architecture = Architecture(
        family="phi3",
        num_layers=1,
        hidden_size=8,
        ffn_hidden_size=8,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=8,
        max_positions=16,
        norm_eps=1e-5,
        tied_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        rope_theta=1e4,
        rope_scaling=scaling,
        initializer_range=0.02,
        bos_id=None,
        eos_id=None,
        pad_id=None,
    )
    rotation = rotation_of(architecture, layer=0)
    assert rotation is not None
    # Short ones are 0, 1, ... at each position, long ones 100, 101, ...
    positions = torch.arange(6.0)[:, None, None, None]
    angles = torch.cat([positions.expand(-1, 1, 1, 8), positions.expand(-1, 1, 1, 8) + 100], -1)
    bounds = torch.tensor([0, 5, 11, 12], dtype=torch.int32)
    own = rotation.own(angles, packed=packed_documents(bounds, longest=6))
    assert own.shape == (12, 1, 1, 8)
    assert own[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 105, 0]
