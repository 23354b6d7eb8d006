# SPDX-License-Identifier: Apache-2.0
"""README and CONTRIBUTING name what exists: paths, verbs, make targets, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megacpt import cli
from megacpt.config.compose import compose

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
TOP = "megacpt|csrc|configs|launch|tests|tools|docs"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def map_rows() -> list[str]:
    section = text_of("README.md").partition("## Map")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    text = text_of(page)
    paths = re.findall(rf"`((?:{TOP})/[^`\s]*)`", text)
    paths += [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_shows_every_package_and_folder() -> None:
    packages = {f"megacpt/{p.parent.name}/" for p in (ROOT / "megacpt").glob("*/__init__.py")}
    packages |= {f"megacpt/{name}" for name in ("errors.py", "cli.py")}
    folders = {f"{name}/" for name in TOP.split("|") if name != "megacpt"}
    assert set(map_rows()) == packages | folders


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_exists(page: str) -> None:
    used = set(re.findall(r"\bmegacpt ([a-z]+)(?= )", "\n".join(code_of(page))))
    assert used <= {verb.name for verb in cli.VERBS}


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code_of(page)))) <= targets


def test_the_example_configuration_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.search(r"```yaml\n(# law\.yaml\n.*?)```", text_of("README.md"), re.DOTALL)
    assert block is not None
    (tmp_path / "law.yaml").write_text(block[1])
    monkeypatch.chdir(tmp_path)
    config = compose([], config_file=Path("law.yaml"))
    assert config.data.replay is not None
    assert (config.evaluate.domain, config.evaluate.general) == ("law", "web")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "make check && make test"
    assert f"$ {command}\n" in text_of("README.md")
    assert f"\n{command} || exit 1\n" in (ROOT / ".ci" / "run").read_text()


def code_of(page: str) -> list[str]:
    """Command lines of code blocks, and inline code."""
    text = text_of(page)
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [*"\n".join(blocks).splitlines(), *re.findall(r"`([^`\n]+)`", text)]
