# SPDX-License-Identifier: Apache-2.0
"""The builder stands on what this megatron-core offers."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = pytest.mark.mcore


def test_hybrid_model_where_there_is_one(one_rank: None) -> None:
    from megacpt.model import build, core

    offered = importlib.util.find_spec("megatron.core.models.hybrid") is not None
    names = {base.__name__ for base in core.Model.__mro__}
    assert names & {"GPTModel", "HybridModel"} == {"HybridModel" if offered else "GPTModel"}
    assert build.Model is core.Model
