# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.device.node.requirements import Requirement, broken, declared, pins, satisfies


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("0.20.0rc1", ">=0.16.1,<0.20", False),
        ("0.19.2", ">=0.16.1,<0.20", True),
        ("2.6", "==2.6.0", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.4.9", "==1.4.*", True),
        ("1.4.9", "!=1.4.9", False),
        ("3", "", True),
    ],
)
def test_satisfies(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


def test_packages_that_are_missing_or_too_old() -> None:
    needs = [
        Requirement(name="numpy", wanted=">=99"),
        Requirement(name="no-such-package", wanted=""),
        Requirement(name="torch", wanted=">=2.6"),
    ]
    old, missing = broken(needs)
    assert old.startswith("numpy ")
    assert old.endswith("(wanted: >=99)")
    assert missing == "no-such-package is missing (wanted: any)"


def test_this_checkout() -> None:
    assert broken(declared()) == []
    assert pins()["torch"]


def test_markers_and_comments_of_constraints(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text('# why\na==1.0; python_version < "3"\na==2.0; python_version >= "3"\nb==3\n')
    assert pins(file) == {"a": "2.0", "b": "3"}
    assert pins(tmp_path / "none") == {}
