# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.errors import EnvironmentError_
from megacpt.files import json_line, write_text


def test_text_replaces_text_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_text(path, text="one")
    write_text(path, text="zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentError_, match="cannot be written"):
        write_text(tmp_path / "file" / "a.json", text="one")


def test_a_full_disk_is_one_error_and_the_old_text_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, text="old")
    (tmp_path / "a.json.partial").symlink_to("/dev/full")
    with pytest.raises(EnvironmentError_, match="No space left on device"):
        write_text(path, text="new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "日本 \udfff\ud800", "plain é"])
def test_halves_of_surrogate_pairs_are_written_and_read_back(tmp_path: Path, text: str) -> None:
    assert json.loads(json_line({text: text}).decode("utf-8")) == {text: text}
    write_text(tmp_path / "a.json", text=json.dumps([text], ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == [text]
