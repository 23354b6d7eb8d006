# SPDX-License-Identifier: Apache-2.0
"""All process groups of a rank poll in one thread, and are otherwise torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.device.cpu.many_groups import GROUPS
from tests.run_on_ranks import run_on_ranks

pytestmark = pytest.mark.mcore


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each rank."""
    work = tmp_path_factory.mktemp("groups")
    run_on_ranks("tests.device.cpu.many_groups:use_them", work, world=2, cases=None)
    return [json.loads((work / f"{rank}.json").read_text()) for rank in range(2)]


def test_one_thread_polls_for_all_of_them(found: list[dict[str, Any]]) -> None:
    assert [(rank["shared"], rank["devices"]) for rank in found] == [(1, 1), (1, 1)]


def test_groups_that_are_at_work_at_once_keep_apart(found: list[dict[str, Any]]) -> None:
    expected = [float(2 * number + 100) for number in range(GROUPS)]
    assert [rank["sums"] for rank in found] == [expected, expected]


def test_each_has_the_timeout_that_was_asked_for(found: list[dict[str, Any]]) -> None:
    assert [(rank["timeout"], rank["whole"]) for rank in found] == [(7.0, 120.0)] * 2


def test_after_the_run_groups_are_torch_s_own(found: list[dict[str, Any]]) -> None:
    """The default group and three more open a device each."""
    assert [rank["afterwards"] for rank in found] == [4, 4]


def test_a_group_that_torch_watches_is_left_alone(tmp_path: Path) -> None:
    """As with TORCH_DISTRIBUTED_DEBUG=DETAIL."""
    run_on_ranks("tests.device.cpu.many_groups:watched", tmp_path, world=2, cases=None)
    assert json.loads((tmp_path / "watched.json").read_text()) > 2
