# SPDX-License-Identifier: Apache-2.0
"""What the operations of a token grow with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import AdapterConfig, AdapterMethod
from megacpt.families import FAMILIES, read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.counts import (
    num_parameters,
    num_trained_parameters,
    training_flops_per_token,
)
from megacpt.families.targets import with_adapter
from megacpt.plan.families import example_of
from tests.llama_cases import write_llama
from tests.plan.test_check import ARCHITECTURE

QWEN3_5 = example_of(FAMILIES["qwen3_5_text"])


def test_only_layers_with_attention_look_at_longer_texts_for_longer() -> None:
    """Two of the example's eight; a token sees half of its text on average."""
    short, long = (training_flops_per_token(QWEN3_5, sequence_length=n) for n in (1000, 3000))
    compared_and_summed = 2 * 1000 * QWEN3_5.num_heads * QWEN3_5.head_dim
    assert long - short == 6 * 2 * compared_and_summed


def test_a_gated_delta_net_s_state_counts_whatever_the_length() -> None:
    net = QWEN3_5.delta_net
    assert net is not None
    twice = replace(QWEN3_5, delta_net=replace(net, kernel=2 * net.kernel))
    # The convolution is no product of matrices.
    assert training_flops_per_token(twice, sequence_length=8) == training_flops_per_token(
        QWEN3_5, sequence_length=8
    )
    state = net.value_heads * net.key_dim * net.value_dim
    narrow = replace(QWEN3_5, delta_net=replace(net, key_dim=net.key_dim // 2))
    less = training_flops_per_token(QWEN3_5, sequence_length=8) - training_flops_per_token(
        narrow, sequence_length=8
    )
    rows = net.key_heads * net.key_dim  # Half of those of query and key.
    assert less == 6 * 6 * (rows * QWEN3_5.hidden_size + 3 * state // 2)


LAYER = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576
"""Matrices of a layer of SmolLM2-135M."""
HEAD = 49152 * 576
FACTORS = 2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)
"""Of its adapter, for each of the ranks."""


def flops_of(base: Architecture = ARCHITECTURE, **settings: Any) -> float:
    """Products with weights alone: of a text without a token before."""
    model = with_adapter(base, settings=AdapterConfig(**settings))
    return training_flops_per_token(model, sequence_length=0)


def trained_of(**settings: Any) -> int:
    return num_trained_parameters(with_adapter(ARCHITECTURE, settings=AdapterConfig(**settings)))


def test_what_an_adapter_trains() -> None:
    """peft 0.21.2 prints 4,884,480 for SmolLM2-135M, r=16, all-linear."""
    assert num_trained_parameters(ARCHITECTURE) == num_parameters(ARCHITECTURE)
    assert trained_of() == 16 * 30 * FACTORS == 4_884_480
    rows = 30 * (576 + 2 * 192 + 576 + 2 * 1536 + 576)
    assert trained_of(method=AdapterMethod.dora) == 4_884_480 + rows
    assert trained_of(method=AdapterMethod.lora_xs, rank=64) == 30 * 7 * 64 * 64
    assert trained_of(method=AdapterMethod.pissa) == 4_884_480
    assert trained_of(train_embedding=True) == 4_884_480 + HEAD
    untied = replace(ARCHITECTURE, tied_embeddings=False)
    both = AdapterConfig(train_head=True, layers="3", targets="q_proj", rank=2)
    assert num_trained_parameters(with_adapter(untied, settings=both)) == HEAD + 2 * 2 * 576


def test_frozen_weights_have_no_gradient() -> None:
    assert training_flops_per_token(ARCHITECTURE, sequence_length=0) == 6 * (30 * LAYER + HEAD)
    assert flops_of() == 4 * (30 * LAYER + HEAD) + 6 * 16 * 30 * FACTORS
    assert flops_of(train_embedding=True) - flops_of() == 2 * HEAD
    frozen_factors = flops_of(method=AdapterMethod.lora_xs) - 4 * (30 * LAYER + HEAD)
    assert frozen_factors == 16 * 30 * (4 * FACTORS + 6 * 7 * 16)
    starts = flops_of(method=AdapterMethod.pissa) - flops_of()
    assert starts == 4 * 16 * 30 * FACTORS


def test_below_all_that_learns_there_is_no_backward_pass() -> None:
    upper = AdapterConfig(layers="20-29")
    weights = 2 * 20 * LAYER + 4 * (10 * LAYER + HEAD) + 6 * 16 * 10 * FACTORS
    assert flops_of(layers="20-29") == weights
    attention = training_flops_per_token(
        with_adapter(ARCHITECTURE, settings=upper), sequence_length=100
    )
    assert attention - weights == (2 * 20 + 6 * 10) * 576 * 100
    # A trained embedding lies below all layers.
    whole = flops_of(layers="20-29", train_embedding=True)
    assert whole == 4 * 30 * LAYER + 6 * HEAD + 6 * 16 * 10 * FACTORS


@pytest.mark.parametrize("layers", [None, "2-3"])
@pytest.mark.parametrize("embedding", [False, True])
def test_pytorch_counts_the_same_operations_of_peft_s_model(
    tmp_path: Path, embedding: bool, layers: str | None
) -> None:
    """But for the inputs of the first layer that learns, which have a gradient only where what is
    below them learns too."""
    peft = pytest.importorskip("peft")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = write_llama(tmp_path / "m", num_hidden_layers=4, tie_word_embeddings=False)
    base = read_architecture(tmp_path / "m")
    config = peft.LoraConfig(
        r=4,
        target_modules=[f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")],
        layers_to_transform=[2, 3] if layers else None,
        modules_to_save=["embed_tokens"] if embedding else None,
    )
    adapted = peft.get_peft_model(model, config)
    tokens = torch.zeros((1, 8), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        adapted(tokens, labels=tokens).loss.backward()
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm] / 8
    trained, _ = adapted.get_nb_trainable_parameters()
    settings = AdapterConfig(rank=4, layers=layers, train_embedding=embedding)
    ours = with_adapter(base, settings=settings)
    assert num_trained_parameters(ours) == trained
    sizes = (base.num_heads + 2 * base.num_kv_heads) * base.head_dim + 3 * 4
    first = 0 if embedding else 2 * base.hidden_size * sizes
    assert training_flops_per_token(ours, sequence_length=0) - first == counted
