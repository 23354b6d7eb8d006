# SPDX-License-Identifier: Apache-2.0
"""The verbs of curation, as docs/curation.md shows them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from megacpt import cli
from megacpt.curate.config import read_config
from megacpt.curate.rewrite.templates import Templates
from tests.corpus.cases import write_jsonl
from tests.curate.filters.cases import MADE
from tests.test_docs import ROOT, assert_shown, examples

PAGE = ROOT / "docs" / "curation.md"
REWRITE = re.compile(r"^## Rewrite\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
TIMES = re.compile(r"in [\d.]+ s:")


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = REWRITE.search(PAGE.read_text())
    assert found is not None
    path = tmp_path / "rewrite.md"
    path.write_text(found.group())
    monkeypatch.chdir(tmp_path)
    return path


def test_the_examples_of_rewrite_print_what_is_shown(
    section: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(examples(section))
    assert len(found) == 3
    for example in found:
        if example.words[0] != "megacpt":
            done = subprocess.run(["bash", "-c", example.command], check=True, capture_output=True)
            assert done.stdout.decode().splitlines() == list(example.output)
            continue
        assert cli.main(example.words[1:]) == 0
        output = tuple(TIMES.sub("in some time:", line) for line in example.output)
        assert_shown(output, printed=TIMES.sub("in some time:", capsys.readouterr().out))


def test_the_files_of_rewrite_can_be_read(section: Path) -> None:
    blocks = re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", section.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for name, content in blocks:
        Path(name).write_text(content)
        if name == "mine.yaml":
            Templates(name)
        else:
            assert read_config(Path(name)).rewrite is not None


def test_filter_shows_what_its_limits_are_compared_with_and_then_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "law.jsonl", [MADE["prose"], MADE["short"], f"{MADE['prose']} a@b.org"])
    same = ["filter", "law.jsonl", "--output", "out", "pii={}", "repetition=null", "form=jsonl"]
    assert cli.main([*same, "gopher.min_doc_words=7", "--tune"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("of 3 documents")
    [row] = [line for line in shown if line.startswith("gopher.min_doc_words ")]
    assert row.split()[1] == "6"
    assert row.endswith("< 7  33.33%")
    assert [path.name for path in tmp_path.iterdir()] == ["law.jsonl"]
    assert cli.main([*same, "gopher.min_doc_words=6"]) == 0
    assert cli.main([*same[:3], "again", *same[4:], "gopher.min_doc_words=7"]) == 0
    shown_again = capsys.readouterr().out
    assert re.search(r"gopher_short_doc +1  1 dropped", shown_again)
    texts = [(tmp_path / name / "text" / "00000.jsonl").read_text() for name in ("out", "again")]
    assert [text.count("\n") for text in texts] == [3, 2]
    assert all("email@example.com" in text and "a@b.org" not in text for text in texts)
