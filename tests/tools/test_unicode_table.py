# SPDX-License-Identifier: Apache-2.0
"""The table of csrc/ is the one that its tool writes, and is written with no other Unicode."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unicode_table", ROOT / "tools/unicode_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_header_is_as_the_tool_writes_it(tool: ModuleType) -> None:
    if unicodedata.unidata_version != tool.UNICODE:
        with pytest.raises(SystemExit, match=f"use one with {tool.UNICODE}"):
            tool.header()
        return
    assert tool.HEADER.read_text(encoding="utf-8") == tool.header()


def test_another_unicode_is_refused(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "UNICODE", "1.1.5")
    with pytest.raises(SystemExit, match=r"use one with 1\.1\.5"):
        tool.header()
