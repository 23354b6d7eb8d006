# SPDX-License-Identifier: Apache-2.0
"""The import rules of the whole package, as tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# Lowest first. A package may import from earlier rows only; names sharing a row are strangers.
LAYERS = [
    {"errors"},
    {"files", "text"},
    {"config"},
    {"families", "tokenizer", "device", "corpus", "_C"},
    {"plan", "preflight", "shards", "hub", "endpoint"},
    {"samples"},
    {"model"},
    {"checkpoint", "adapters"},
    {"convert", "evaluate", "monitor", "serve"},
    {"train", "cluster", "demo", "vocabulary", "curate"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
ROOT = Path(__file__).parents[1] / "megacpt"
SOURCES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")
TORCH_FREE = [
    *("errors", "files", "text", "config", "families", "tokenizer", "corpus"),
    *("plan", "shards", "hub", "endpoint", "samples", "cluster", "curate"),
]
ENVIRONMENT_READERS = {"device", "cli"}
LINES_MAX = 50
TESTS = Path(__file__).parent
TESTED_FOLDERS = {
    "csrc": ROOT.parent / "csrc",
    "tools": ROOT.parent / "tools",
    "adapter_cases": TESTS / "adapter_cases",
}
"""Folders of tests whose source is not in the package's folder of that name."""
# What no single source file does: runs and failures as wholes, and pages. By folder.
SCENARIOS = {
    "": "architecture branch_coverage docs docs_gpu docs_tokenize launch layers packaging readme "
    "forked run_on_ranks",
    "checkpoint": "format interleavings",
    "convert": "parts readers vllm",
    "curate": "kills properties",
    "families": "options shapes",
    "commands": "bad_inputs inspect launch train",
    "gpu": "adapters families optimizer smoke",
    "model": "cases layouts mixtral qwen te te_cases te_moe te_precision",
    "model/adapters": "te training",
    "model/layers": "elementwise",
    "monitor": "dataset",
    "shards": "fuzz",
    "shards/tokenize": "quarantine real_files",
    "slurm": "curate environment preprocess survival train",
    "tokenizer": "files",
    "train": "adapter_files adapters benchmarks changes continued conversations damaged delta_nets "
    "documents export gate kills layouts megatron_files moe parity precision reshard resume "
    "save_errors stages warm_start zero3 adapter_layouts",
    "train/guard": "fault_state hang",
}
MAY_IMPORT_MEGATRON = {"device", "model", "adapters", "checkpoint", "convert", "evaluate", "train"}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(source: str) -> set[str]:
    """Full names of all absolute imports in ``source``, lazy ones included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    modules = imported_modules(path.read_text())
    used = {m.split(".")[1] for m in modules if m.startswith("megacpt.")} - {package, "__version__"}
    for name in used:
        assert RANK[name] < RANK[package], f"{path}: {package} must not import {name}"
    if any(m.startswith("megatron") for m in modules):
        assert package in MAY_IMPORT_MEGATRON, f"{path} imports megatron"


@pytest.mark.parametrize("path", [p for p in SOURCES if package_of(p) != "device"], ids=str)
def test_cuda_is_named_in_device_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "cuda"), f"{path}:{node.lineno}"
        if isinstance(node, ast.Constant):
            assert node.value != "cuda", f"{path}:{node.lineno}"


@pytest.mark.parametrize("package", TORCH_FREE)
def test_login_node_packages_import_no_torch(package: str) -> None:
    modules = [
        ".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for p in SOURCES
        if package_of(p) == package
    ]
    imports = "".join(f"import {m}\n" for m in modules)
    code = f"import sys\n{imports}assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_are_short_and_the_environment_is_read_in_two_places(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LINES_MAX, f"{path}: {node.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            reads = (node.value.id, node.attr) in {("os", "environ"), ("os", "getenv")}
            assert not reads or package_of(path) in ENVIRONMENT_READERS, f"{path}:{node.lineno}"


def mirrors(test: Path) -> bool:
    """Whether a source file, or a folder as a whole, has the name and place of the test."""
    folder, name = test.relative_to(TESTS).parent, test.stem.removeprefix("test_")
    source = TESTED_FOLDERS.get(str(folder), ROOT / folder)
    if name in ("init", source.name) and (source / "__init__.py").exists():
        return True
    return any(source.glob(f"{name}.*")) or (source / name / "__init__.py").exists()


def test_tests_stand_where_their_source_does() -> None:
    """Each tests megacpt/ROOM/X.py as tests/ROOM/test_X.py, or is a scenario listed above."""
    listed = {
        TESTS / folder / f"test_{name}.py"
        for folder, names in SCENARIOS.items()
        for name in names.split()
    }
    strays = {test for test in set(TESTS.rglob("test_*.py")) - listed if not mirrors(test)}
    assert not strays, f"rename as their source or add to SCENARIOS: {relative(strays)}"
    gone = {test for test in listed if not test.exists()}
    assert not gone, f"take out of SCENARIOS: {relative(gone)}"


def test_files_do_not_repeat_their_folder_s_name() -> None:
    repeating = {
        path
        for path in TESTS.rglob("*.py")
        if path.parent.name in path.stem.removeprefix("test_").split("_")
        and not (path.stem.startswith("test_") and mirrors(path))
    }
    assert not repeating, relative(repeating)


def relative(paths: set[Path]) -> list[str]:
    return sorted(str(path.relative_to(TESTS)) for path in paths)
