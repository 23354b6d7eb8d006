# SPDX-License-Identifier: Apache-2.0
"""The checkpoint folder: only complete ones are seen, and nothing complete is ever lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.checkpoint import store
from megacpt.errors import CheckpointError


def write(root: Path, *, step: int) -> Path:
    partial = store.partial_folder(root, step=step)
    partial.mkdir(parents=True)
    (partial / "weights.distcp").write_bytes(bytes(100))
    manifest = store.CheckpointManifest(
        step=step,
        architecture={"hidden_size": 64},
        layout={"tp": 1, "pp": 1, "vpp": 1, "dp": 1},
        data={"step": step},
        tokens_per_source={"domain": 10},
        elapsed_s=1.5,
        base_heldout=None,
        faults={},
        files={"weights.distcp": 100},
    )
    return store.publish(root, partial=partial, manifest=manifest)


def test_newest_is_the_last_published(tmp_path: Path) -> None:
    assert store.newest(tmp_path) is None
    write(tmp_path, step=3)
    last = write(tmp_path, step=12)
    assert store.newest(tmp_path) == last
    assert store.read_manifest(last).step == 12
    assert not list(tmp_path.glob(".*.partial"))


def test_half_written_folder_is_never_chosen(tmp_path: Path) -> None:
    first = write(tmp_path, step=3)
    store.partial_folder(tmp_path, step=6).mkdir()
    assert store.newest(tmp_path) == first
    store.remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_00000003"]


def test_death_between_rename_and_latest_is_survived(tmp_path: Path) -> None:
    write(tmp_path, step=3)
    pointer = (tmp_path / "latest").read_text()
    write(tmp_path, step=6)
    (tmp_path / "latest").write_text(pointer)
    assert store.newest(tmp_path) == tmp_path / "step_00000003"
    again = write(tmp_path, step=6)
    assert store.newest(tmp_path) == again
    assert not list(tmp_path.glob(".*"))


def test_what_a_second_death_there_leaves_is_removed(tmp_path: Path) -> None:
    first = write(tmp_path, step=3)
    write(tmp_path, step=6).rename(tmp_path / ".step_00000006.replaced")
    store.partial_folder(tmp_path, step=6).mkdir()
    assert store.newest(tmp_path) == first
    store.remove_partials(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_lost_pointer_falls_back_to_the_newest_complete(tmp_path: Path) -> None:
    write(tmp_path, step=3)
    last = write(tmp_path, step=6)
    (tmp_path / "latest").unlink()
    assert store.newest(tmp_path) == last


def test_prune_keeps_the_last(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        write(tmp_path, step=step)
    store.prune(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000006", "step_00000009"]


def test_truncated_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, step=3)
    (folder / "weights.distcp").write_bytes(bytes(60))
    with pytest.raises(
        CheckpointError, match=r"weights\.distcp has 60 bytes but was written with 100"
    ):
        store.read_manifest(folder)


def test_broken_manifest_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, step=3)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a checkpoint manifest"):
        store.read_manifest(folder)
