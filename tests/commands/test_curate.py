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
