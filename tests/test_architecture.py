# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md names what exists, and keeps its promises of how short each way is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_layers import LAYERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATH = re.compile(r"`((?:megacpt|tests|tools|csrc|configs|docs)/[\w./-]*)`")
HOPS_MAX = 6
PLACES_MAX = 3


def section(title: str, *, level: int = 2) -> str:
    marks = "#" * level
    _, found, rest = PAGE.partition(f"\n{marks} {title}\n")
    assert found, title
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


def recipes() -> list[str]:
    return re.findall(r"^### (Add an? .*)$", PAGE, re.MULTILINE)


def test_every_path_exists() -> None:
    paths = PATH.findall(PAGE)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_rooms_are_those_of_the_layer_test() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", section("Rooms"), re.MULTILINE)
    shown = [
        {Path(path).name.removesuffix(".py") for path in PATH.findall(cell)} for _, cell in rows
    ]
    on_disk = {p.name.removesuffix(".py") for p in (ROOT / "megacpt").iterdir()}
    wanted = [{name for name in row if name in on_disk} - {"_C", "__main__"} for row in LAYERS]
    assert shown == [row for row in wanted if row]


@pytest.mark.parametrize("title", ["From a document to the exported folder", "A step"])
def test_a_path_has_few_hops(title: str) -> None:
    hops = re.findall(r"^\d+\. `", section(title), re.MULTILINE)
    assert 3 <= len(hops) <= HOPS_MAX


@pytest.mark.parametrize("title", recipes())
def test_a_recipe_names_few_places(title: str) -> None:
    places = set(PATH.findall(section(title, level=3)))
    assert 1 <= len(places) <= PLACES_MAX


def test_there_is_a_recipe_for_each_usual_addition() -> None:
    wanted = {"model family", "optimizer", "schedule", "metric", "verb", "data filter"}
    assert {re.sub(r"^Add an? ", "", title) for title in recipes()} == wanted
