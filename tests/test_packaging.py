# SPDX-License-Identifier: Apache-2.0
"""The metadata agrees with itself, every file states its licence, and a wheel works anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import megacpt

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13")
UNPINNED = {"setuptools", "transformer-engine"}
"""Build tool of every environment, and what needs a GPU or a benchmark's own versions."""
BUILD_INPUTS = ("megacpt", "csrc", "configs", "launch", "setup.py", "pyproject.toml")


def tracked_files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def pins(python: str) -> dict[str, str]:
    """Package -> the version constraints.txt allows on a Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": python}
    chosen = [r for r in found if r.marker is None or r.marker.evaluate(environment)]
    names = [r.name for r in chosen]
    assert sorted(set(names)) == sorted(names), "a package is pinned twice"
    return {r.name: str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_every_requirement_is_pinned_within_its_range(python: str) -> None:
    pinned = pins(python)
    wanted = [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
    for requirement in map(Requirement, wanted):
        marker = requirement.marker
        applies = marker is None or marker.evaluate({"python_version": python})
        if applies and requirement.name not in UNPINNED:
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_supported_versions_are_as_promised() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert {"torch>=2.6", "megatron-core>=0.16.1,<0.20"} <= set(PROJECT["dependencies"])
    names = "te eval muon nf4 data curate demo usefulness dev"
    assert set(EXTRAS) == set(names.split())


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert megacpt.__version__ in headings or len(headings) == 1


def test_every_source_file_states_its_licence() -> None:
    endings = {".py", ".pyi", ".h", ".cpp", ".sh", ".sbatch"}
    named = {"Makefile", "run"}
    sources = [p for p in tracked_files() if p.suffix in endings or p.name in named]
    assert len(sources) > 50
    silent = [
        p for p in sources if "SPDX-License-Identifier: Apache-2.0" not in p.read_text()[:200]
    ]
    assert silent == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, outside the checkout."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked_files():
        relative = path.relative_to(ROOT)
        if relative.parts[0] in (*BUILD_INPUTS, "README.md", "LICENSE"):
            (source / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, source / relative)
    output = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", output, source], check=True)
    return next(output.glob("megacpt-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_configs_launch_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("configs", "launch"):
        files = [p for p in tracked_files() if p.relative_to(ROOT).parts[0] == folder]
        assert {f"megacpt/{p.relative_to(ROOT)}" for p in files} <= set(names)
    assert any(re.fullmatch(r"megacpt/_C\..*so", name) for name in names)
    assert {"megacpt/_C.pyi", "megacpt/py.typed"} <= set(names)
    templates = [p for p in tracked_files() if p.suffix in {".jinja", ".css"}]
    assert {str(p.relative_to(ROOT)) for p in templates} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "megacpt", *words]
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = [sys.executable, "-c", "import megacpt; print(megacpt.__file__)"]
    assert str(site) in subprocess.check_output(where, cwd=elsewhere, env=environment, text=True)
    assert str(site / "megacpt" / "configs") in run("config", "experiment=tiny")
    run("train", "experiment=tiny", "schedule.steps=4", "monitor.wandb=disabled")
    assert (elsewhere / "runs" / "tiny" / "metrics.jsonl").exists()
