# SPDX-License-Identifier: Apache-2.0
"""Llama in every option of its table."""

from __future__ import annotations

from tests.family_cases import Case
from tests.llama_cases import CASES as CHANGES

CASES = {
    name: Case(
        model_type="llama", changes={"num_key_value_heads": 6, "rms_norm_eps": 1e-5} | changes
    )
    for name, changes in CHANGES.items()
}
