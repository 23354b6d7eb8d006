# SPDX-License-Identifier: Apache-2.0
"""lm-eval sets a variable when imported; ranks that later tests start shall not have it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def own_variables() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_XET_HIGH_PERFORMANCE", "1")
        yield
