# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/gpu.md are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.config.sections import DeviceKind
from megacpt.device.variables import VARIABLES
from megacpt.model.kernels import BUCKET_PARAMETERS, KERNELS

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"


def variable_rows() -> list[str]:
    return [
        f"| `{v.name}={v.value}` | {'CPU: ' if v.kind is DeviceKind.cpu else ''}{v.when} "
        f"| {v.reason} | [source]({v.source}) |"
        for v in VARIABLES
    ]


def kernel_rows() -> list[str]:
    return [f"| `{k.name}` | {k.when} | {k.reason} | [source]({k.source}) |" for k in KERNELS]


@pytest.mark.parametrize(
    ("title", "rows"), [("Variable", variable_rows()), ("Switch", kernel_rows())]
)
def test_a_table_is_that_of_the_code(title: str, rows: list[str]) -> None:
    """Row for row, none more; where it fails, put these rows into the page."""
    lines = PAGE.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} |")) + 2
    table = lines[first : first + lines[first:].index("")]
    assert table == rows, "\n" + "\n".join(rows)


def test_the_size_of_a_bucket() -> None:
    assert f"{BUCKET_PARAMETERS // 2**20} Mi parameters" in PAGE.read_text()
