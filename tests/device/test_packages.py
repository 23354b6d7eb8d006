# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from megacpt.device.packages import broken, declared, pins, require_packages, satisfies
from megacpt.errors import EnvironmentError_


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.5.1", ">=2.6", False),
        ("2.7.0a0+79aa17489c.nv25.4", ">=2.6", True),
        ("0.20.0", ">=0.16.1,<0.20", False),
        ("0.19.2", ">=0.16.1,<0.20", True),
    ],
)
def test_satisfies(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted=SpecifierSet(wanted)) is fits


def test_packages_that_are_missing_or_too_old() -> None:
    old, missing = broken(map(Requirement, ("numpy>=99", "no-such-package", "torch>=2.6")))
    assert old.startswith("numpy ")
    assert old.endswith("(wanted: >=99)")
    assert missing == "no-such-package is missing (wanted: any)"


def test_what_a_setting_needs() -> None:
    require_packages("a=b", packages={"torch": (2, 6)}, remedy="use a=c")
    with pytest.raises(
        EnvironmentError_, match=r"^a=b needs numpy>=99.0 \(found: .*\); use a=c\.$"
    ):
        require_packages("a=b", packages={"torch": (2, 6), "numpy": (99, 0)}, remedy="use a=c")


def test_this_checkout() -> None:
    assert broken(declared()) == []
    assert pins()["torch"].specifier


def test_markers_and_comments_of_constraints(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text(
        '# why\na==1.0; python_version < "3"\na==2.0; python_version >= "3"\nb==3  # x\n'
    )
    assert {name: str(pin.specifier) for name, pin in pins(file).items()} == {
        "a": "==2.0",
        "b": "==3",
    }
    assert pins(tmp_path / "none") == {}
