# SPDX-License-Identifier: Apache-2.0
"""What is built: padded vocabulary, marks that the gradient norm and optimizer read, biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.errors import EnvironmentError_
from tests.llama_cases import CASES, TOKENS_BS, write_llama

pytestmark = pytest.mark.mcore


def build(folder: Path, kind: DeviceKind = DeviceKind.cpu) -> tuple[Any, Any]:
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model

    architecture = read_architecture(folder)
    (model,) = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=kind,
        sequence_length=96,
    )
    return model, architecture


@pytest.mark.parametrize(("tp", "padded"), [(1, 131), (2, 132), (3, 132), (8, 136)])
def test_the_vocabulary_is_filled_up_to_equal_shares(
    tp: int, padded: int, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.families import read_architecture
    from megacpt.model.build import padded_vocab_size

    write_llama(tmp_path)
    assert padded_vocab_size(read_architecture(tmp_path), tp=tp) == padded


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_the_rows(case: str, tmp_path: Path, one_rank: None) -> None:
    from megacpt.families import param_rows
    from megacpt.families.counts import num_parameters

    write_llama(tmp_path, **CASES[case])
    model, architecture = build(tmp_path)
    per_layer = [row for row in param_rows(architecture) if "{layer}" in row.native]
    others = len(param_rows(architecture)) - len(per_layer)
    names = list(dict(model.named_parameters()))
    assert len(names) == architecture.num_layers * len(per_layer) + others
    assert sum(p.numel() for p in model.parameters()) == num_parameters(architecture)


def test_cut_parameters_are_marked(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path, **CASES["tied-all-biases"])
    model, _ = build(tmp_path)
    for name, param in model.named_parameters():
        whole = "norm" in name or name.endswith(("linear_proj.bias", "linear_fc2.bias"))
        assert getattr(param, "tensor_model_parallel", False) is not whole, name


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_transformers(case: str, tmp_path: Path, one_rank: None) -> None:
    from megacpt.model.placement import placed_params
    from megacpt.model.weights import load_hf

    reference = write_llama(tmp_path, **CASES[case])
    model, architecture = build(tmp_path)
    load_hf([model], folder=tmp_path, architecture=architecture)
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    model(TOKENS_BS, positions_BS, None, labels=TOKENS_BS).mean().backward()
    logits_BSV = reference(TOKENS_BS).logits
    torch.nn.functional.cross_entropy(logits_BSV.flatten(0, 1), TOKENS_BS.flatten()).backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    for placed in placed_params([model], architecture=architecture):
        views = placed.row.views(placed.tensor.grad, architecture=architecture, tp=1)
        for source, view in zip(placed.row.sources, views, strict=True):
            torch.testing.assert_close(
                view.flatten(0, 1), expected[placed.hf_name(source)], atol=1e-6, rtol=1e-4
            )


@pytest.mark.parametrize("fused", [True, False])
def test_padded_columns_get_no_gradient(tmp_path: Path, one_rank: None, fused: bool) -> None:
    write_llama(tmp_path)
    model, _ = build(tmp_path)
    model.output_layer.vocab_size = 100  # as if 31 of the 131 columns were padding
    torch.nn.init.normal_(model.embedding.word_embeddings.weight)
    torch.nn.init.normal_(model.output_layer.weight)
    for name, param in model.decoder.named_parameters():
        torch.nn.init.constant_(param, 1.0 if "norm" in name else 0.01)
    tokens_BS = TOKENS_BS % 100
    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    weights_BS = torch.ones(tokens_BS.shape) if fused else None
    losses_BS = model(tokens_BS, positions_BS, None, labels=tokens_BS, loss_mask=weights_BS)
    losses_BS.sum().backward()
    assert bool(losses_BS.isfinite().all())
    assert bool((model.output_layer.weight.grad[100:] == 0).all())
    assert bool((model.output_layer.weight.grad[:100] != 0).any(dim=1).all())


def test_a_gpu_without_transformer_engine(tmp_path: Path, one_rank: None) -> None:
    from megatron.core.extensions.transformer_engine import HAVE_TE

    if HAVE_TE:
        pytest.skip("Transformer Engine is installed")
    write_llama(tmp_path)
    with pytest.raises(EnvironmentError_, match="Training on GPUs needs Transformer Engine"):
        build(tmp_path, DeviceKind.gpu)
