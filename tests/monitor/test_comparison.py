# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other, in 80 columns and as a page."""

from __future__ import annotations

from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megacpt.config.compose import read_run_yaml
from megacpt.evaluate.between import between
from megacpt.monitor.comparison import Between, comparison_html, comparison_rows, comparison_text
from megacpt.monitor.layers import ReportLayer
from megacpt.monitor.report import read_run
from megacpt.monitor.summary import Summary, summarise
from tests.monitor.sample_run import STEPS, records, write_evaluation, write_run

NAMES = ("first", "second", "third", "a_run_with_a_name_as_long_as_a_sentence")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = [tmp_path_factory.mktemp("runs") / name for name in NAMES]
    for seed, folder in enumerate(found):
        config = write_run(folder, run=records())
        if seed != 2:
            write_evaluation(folder, config=config, step=STEPS, suites=True, seed=seed)
    return found


def summary_of(folder: Path) -> Summary:
    config = read_run_yaml(folder / "run.yaml")
    return summarise(replace(read_run(folder, config=config), name=folder.name))


@pytest.fixture(scope="module")
def runs(folders: list[Path]) -> list[Summary]:
    return [summary_of(folder) for folder in folders]


@pytest.fixture(scope="module")
def pairs(folders: list[Path]) -> list[Between]:
    first, second = (read_run_yaml(folder / "run.yaml") for folder in folders[:2])
    checks = between(first, second=second, names=["hellaswag", "mmlu", "psalm_quiz", "letters"])
    return [Between(first="first", second="second", check=asdict(check)) for check in checks]


def test_a_terminal_s_width_is_kept_and_every_run_is_there(
    runs: list[Summary], pairs: list[Between]
) -> None:
    text = comparison_text(runs, between=pairs)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == list(NAMES[:3])
    assert [f"{NAMES[3][:16]}\N{HORIZONTAL ELLIPSIS}"] in lines


def test_a_suite_has_points_verdict_and_interval(runs: list[Summary]) -> None:
    rows = comparison_rows(runs)
    at = next(n for n, row in enumerate(rows) if row.label == "mmlu retention")
    points, ends = rows[at], rows[at + 1]
    assert points.cells[2] == "-"
    assert ends.cells[2] == ""
    check = runs[0]["layers"][0]["rows"][1]["check"]
    assert points.cells[0].startswith(f"{check['difference_points']:+.1f}")
    assert ends.cells[0] == f"{check['low_points']:+.1f} to {check['high_points']:+.1f}"


def with_role(run: Summary, *, suite: str, role: str) -> Summary:
    layers: list[ReportLayer] = [
        {
            **layer,
            "rows": [
                {**row, "check": {**row["check"], "role": role}}
                if row["check"]["suite"] == suite
                else row
                for row in layer["rows"]
            ],
        }
        for layer in run["layers"]
    ]
    return {**run, "layers": layers}


def test_what_is_kept_for_one_run_and_gained_for_another_has_two_rows(runs: list[Summary]) -> None:
    rows = comparison_rows([runs[0], with_role(runs[1], suite="psalm_quiz", role="retention")])
    by_label = {row.label: row.cells for row in rows}
    assert by_label["psalm_quiz gain"][1] == by_label["psalm_quiz retention"][0] == "-"
    labels = list(by_label)
    assert labels.index("psalm_quiz retention") < labels.index("psalm_quiz gain")


def test_candidates_are_compared_where_their_items_are_the_same(pairs: list[Between]) -> None:
    """Of mmlu, each run drew its own clusters."""
    assert [pair.check["suite"] for pair in pairs] == ["hellaswag", "psalm_quiz", "letters"]
    assert all(pair.check["limit_points"] is None for pair in pairs)


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_says_the_same_and_asks_for_nothing(
    runs: list[Summary], pairs: list[Between]
) -> None:
    page = comparison_html(runs, between=pairs)
    parser = _Cells()
    parser.feed(page)
    text = " ".join(parser.words)
    assert "4 runs side by side" in text
    assert "letters usefulness" in text
    assert "Candidates against each other" in text
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
