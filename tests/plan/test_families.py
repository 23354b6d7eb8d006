# SPDX-License-Identifier: Apache-2.0
"""The table says what transformers calls a family, and what the tests of all families do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.config.sections import DeviceKind
from megacpt.errors import Violation
from megacpt.families import FAMILIES
from megacpt.plan import families
from megacpt.plan.families import PROBES, WIDTH, FamilyRow, families_text, family_rows
from megacpt.plan.rules import Facts
from tests.family_cases import allowed_layouts, cases_of_families

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TESTED_BY = {
    "tp": ("tp2", "tp2-sp", "tp2-ep2"),
    "sp": ("tp2-sp", "tp2-ep2"),
    "pp": ("pp2",),
    "vpp": ("pp2-vpp2",),
    "ep": ("ep2",),
    "cp": ("cp2",),
}
"""Column -> the layouts of the tests that it stands for."""
ROWS = {row.model_type: row for row in family_rows()}


def test_every_family_has_a_row_and_is_told_apart() -> None:
    assert ROWS.keys() == FAMILIES.keys()
    for row in ROWS.values():
        assert row.name
        assert row.adds.endswith("."), row.model_type
    assert len({row.adds for row in ROWS.values()}) == len(ROWS)


def test_classes_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    assert {name: row.architecture for name, row in ROWS.items()} == {
        name: CLASSES[name] for name in ROWS
    }


@pytest.fixture(scope="module")
def allowed() -> dict[str, list[str]]:
    return allowed_layouts()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_layout_is_marked_where_the_family_is_tested_on_it(
    model_type: str, allowed: dict[str, list[str]]
) -> None:
    tested = {layout for name in cases_of_families()[model_type] for layout in allowed[name]}
    marked = TESTED_BY.keys() - ROWS[model_type].refused.keys()
    assert marked == {column for column, names in TESTED_BY.items() if tested & set(names)}


def test_a_rule_that_refuses_a_family_on_a_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_caps(facts: Facts) -> Iterator[Violation]:
        on_gpu = facts.config.cluster.device is DeviceKind.gpu
        if on_gpu and facts.architecture and facts.architecture.qk_norm:
            yield Violation(path="cluster.device", value="gpu", rule="has no norm", remedy="none")

    monkeypatch.setattr(families, "RULES", (*families.RULES, no_caps))
    rows = {row.model_type: row for row in family_rows()}
    assert rows["qwen3"].refused["GPU"] == "cluster.device=gpu has no norm"
    assert "GPU" not in rows["llama"].refused
    assert "  GPU: cluster.device=gpu has no norm" in families_text(list(rows.values()))


def test_the_table_fits_a_terminal_and_holds_no_space_at_the_end() -> None:
    row = FamilyRow(
        model_type="qwen3_5_moe_text",
        architecture="Qwen3_5MoeForCausalLM",
        name="Qwen3.5",
        adds="a word " * 30,
        refused={"GPU": "no " * 50},
        inside=(),
    )
    for line in families_text([*ROWS.values(), row]).splitlines():
        assert len(line) <= WIDTH
        assert line == line.rstrip()


def test_the_verb_prints_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model_type"] for row in found["families"]} == FAMILIES.keys()
    assert "gemma4" in found["refused"]
    assert set(PROBES) >= {key for row in found["families"] for key in row["refused"]}


def test_the_page_shows_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    printed = capsys.readouterr().out
    shown = re.search(r"```console\n\$ megacpt families\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == printed, "write the output of `megacpt families` into docs/models.md"
