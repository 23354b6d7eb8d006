# SPDX-License-Identifier: Apache-2.0
"""What the operations of a token grow with."""

from __future__ import annotations

from dataclasses import replace

from megacpt.families import FAMILIES
from megacpt.families.counts import training_flops_per_token
from megacpt.plan.families import example_of

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
