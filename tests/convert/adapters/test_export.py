# SPDX-License-Identifier: Apache-2.0
"""An export of an adapter replaces an earlier one, and nothing of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.errors import EnvironmentError_
from tests.convert.adapters.support import drawn_adapter
from tests.convert.adapters.test_folder import write_base

pytestmark = pytest.mark.mcore


def test_only_an_earlier_export_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here without PEFT, so that neither has a certificate; the card tells them apart."""
    from megacpt.convert.adapters import export

    monkeypatch.setattr(export, "find_spec", lambda name: None)
    source = drawn_adapter(write_base("llama-plain", folder=tmp_path / "base"))
    output, told = tmp_path / "out", []

    def describe(folder: Path, *, certified: bool) -> None:
        told.append(certified)
        (folder / "README.md").write_text("---\ntags:\n- megacpt\n---\n")

    wanted = export.PeftFolder(source=source, output=output, base_model=None, describe=describe)
    for _ in range(2):
        assert not export.export_adapter(wanted)
    assert told == [False, False]
    (output / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    before = (output / "adapter_model.safetensors").read_bytes()
    with pytest.raises(EnvironmentError_, match="is not an earlier export"):
        export.export_adapter(wanted)
    assert (output / "adapter_model.safetensors").read_bytes() == before
    assert told == [False, False]
