# SPDX-License-Identifier: Apache-2.0
"""What megatron-core does to an expert's result must be possible to the product's."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore]


def test_an_experts_bias_is_added_in_place() -> None:
    from megacpt.model.adapters.product import adapted_product

    x_TI, w_OI, a_RI, b_OR, bias_O = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for seed, shape in enumerate([(5, 4), (6, 4), (2, 4), (6, 2), (6,)])
    )
    a_RI.requires_grad_()
    y_TO = adapted_product(x_TI, weight=w_OI, a_RI=a_RI, b_OR=b_OR)
    y_TO += bias_O
    expected = x_TI @ (w_OI + b_OR @ a_RI).t() + bias_O
    torch.testing.assert_close(y_TO, expected)
    (found,) = torch.autograd.grad(y_TO.square().sum(), a_RI)
    (wanted,) = torch.autograd.grad(expected.square().sum(), a_RI)
    torch.testing.assert_close(found, wanted)
