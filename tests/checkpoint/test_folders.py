# SPDX-License-Identifier: Apache-2.0
"""The checkpoint folder: only complete ones are seen, and nothing complete is ever lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megacpt.checkpoint import folders, starts
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.retention import Retention
from megacpt.errors import CheckpointError, EnvironmentError_, Superseded
from tests.checkpoint.small import claim, manifest_of, names, write, write_partial


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


def damage(folder: Path, *, name: str = "__0_0.distcp") -> None:
    (folder / name).write_bytes(b"short")


def test_newest_is_the_last_published(root: Path) -> None:
    start = claim(root, from_step=0)
    assert folders.newest(root) is None
    write(root, step=3, start=start)
    last = write(root, step=12, start=start)
    assert folders.newest(root) == last
    assert CheckpointManifest.read(last).step == 12
    assert folders.newest_data(root) == {"step": 12}
    assert (root / "latest").read_text() == last.name
    assert names(root) == ["latest", "step_00000003", "step_00000012"]


def test_half_written_folder_is_never_chosen(root: Path) -> None:
    old = claim(root, from_step=0)
    first = write(root, step=3, start=old)
    write_partial(root, step=6, start=old)
    assert folders.newest(root) == first
    start = claim(root)
    write_partial(root, step=9, start=start)
    folders.remove_leftovers(root, start=start)
    own = folders.partial_folder(root, step=9, start=start).name
    assert names(root) == [own, "latest", "step_00000003"]


def test_latest_is_never_believed(root: Path) -> None:
    start = claim(root, from_step=0)
    write(root, step=3, start=start)
    last = write(root, step=6, start=start)
    (root / "latest").write_text("step_00000003")
    assert folders.newest(root) == last
    (root / "latest").unlink()
    assert folders.newest(root) == last


def test_damaged_ones_are_passed_over_and_named(root: Path) -> None:
    start = claim(root, from_step=0)
    first = write(root, step=3, start=start)
    damage(write(root, step=6, start=start))
    (write(root, step=9, start=start) / "manifest.json").unlink()
    (write(root, step=12, start=start) / "manifest.json").write_text("{")
    shutil.copytree(write(root, step=15, start=start), root / "step_00000018")
    shutil.rmtree(root / "step_00000015")
    assert folders.newest(root) == first
    problems = [candidate.problem or "" for candidate in folders.published(root)]
    assert "its manifest is of step 15" in problems[0]
    assert problems[1].startswith("manifest.json is not that of a checkpoint: Expecting property")
    assert problems[2:] == [
        "manifest.json is missing",
        "__0_0.distcp has 5 bytes but was written with 300",
        "",
    ]


def test_flipped_bit_is_found_by_reading_all(root: Path) -> None:
    start = claim(root, from_step=0)
    first, last = (write(root, step=step, start=start) for step in (3, 6))
    content = bytearray((last / "common.pt").read_bytes())
    content[7] ^= 1
    (last / "common.pt").write_bytes(content)
    assert folders.newest(root) == last
    assert folders.newest(root, full=True) == first
    (newest, older) = folders.published(root, full=True)
    assert newest.problem == "common.pt has other contents than were written (its checksum differs)"
    assert older.problem is None


def test_all_damaged_is_no_beginning(root: Path) -> None:
    damage(write(root, step=3, start=claim(root, from_step=0)))
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be used:\n  step_00000003"):
        folders.newest(root)


def test_checkpoint_of_a_history_left_behind_is_not_chosen(root: Path) -> None:
    old = claim(root, from_step=0)
    first = write(root, step=3, start=old)
    late = write(root, step=6, start=old)
    start = claim(root, from_step=3)
    assert folders.newest(root) == first
    found = folders.published(root)[0]
    assert found.folder == late
    assert found.problem == "written by start 1, but start 2 has gone on from step 3"
    own = write(root, step=6, start=start)
    assert folders.newest(root) == own
    assert CheckpointManifest.read(own).start == 2


def test_nothing_but_a_history_left_behind_is_a_beginning(root: Path) -> None:
    write(root, step=3, start=claim(root, from_step=0))
    claim(root, from_step=0)
    assert folders.newest(root) is None


def test_superseded_start_publishes_nothing(root: Path) -> None:
    old = claim(root, from_step=0)
    partial = write_partial(root, step=3, start=old)
    manifest = manifest_of(partial, step=3, start=old)
    claim(root)
    with pytest.raises(Superseded, match="is superseded by start 2"):
        folders.publish(root, partial=partial, manifest=manifest, start=old)
    assert names(root) == [partial.name]


def test_same_step_of_the_same_history_stays_as_it_is(root: Path) -> None:
    folder = write(root, step=3, start=claim(root, from_step=0))
    assert write(root, step=3, start=claim(root, from_step=3)) == folder
    assert CheckpointManifest.read(folder).start == 1
    assert names(root) == ["latest", "step_00000003"]


def test_damaged_one_of_the_same_step_is_replaced(root: Path) -> None:
    damage(write(root, step=3, start=claim(root, from_step=0)))
    again = write(root, step=3, start=claim(root, from_step=0))
    assert CheckpointManifest.read(again).start == 2
    assert names(root) == ["latest", "step_00000003"]


def test_files_that_changed_since_they_were_summed_are_not_published(root: Path) -> None:
    start = claim(root, from_step=0)
    partial = write_partial(root, step=3, start=start)
    manifest = manifest_of(partial, step=3, start=start)
    damage(partial)
    with pytest.raises(EnvironmentError_, match="was not written as its manifest says"):
        folders.publish(root, partial=partial, manifest=manifest, start=start)


def test_what_cannot_be_written_is_said_with_the_systems_reason(root: Path) -> None:
    start = claim(root, from_step=0)
    partial = write_partial(root, step=3, start=start)
    manifest = manifest_of(partial, step=3, start=start)
    shutil.rmtree(partial)
    with pytest.raises(EnvironmentError_, match="No such file or directory; free space"):
        folders.publish(root, partial=partial, manifest=manifest, start=start)


def test_prune_keeps_what_the_policy_keeps(root: Path) -> None:
    start = claim(root, from_step=0)
    losses = {3: 2.0, 6: 1.0, 9: 1.5, 10: 1.25, 12: 1.2, 15: 3.0}
    for step, loss in losses.items():
        write(root, step=step, start=start, heldout={"law": loss})
    policy = Retention(keep_last=2, keep_every_steps=10, best_of="law")
    gone = folders.prune(root, policy=policy, start=start)
    assert [p.name for p in gone] == ["step_00000009", "step_00000003"]
    kept = ["step_00000006", "step_00000010", "step_00000012", "step_00000015"]
    assert names(root) == ["latest", *kept]


def test_prune_counts_no_damaged_one_and_leaves_it(root: Path) -> None:
    start = claim(root, from_step=0)
    for step in (3, 6, 9):
        write(root, step=step, start=start)
    damage(root / "step_00000009")
    folders.prune(root, policy=Retention(keep_last=1), start=start)
    assert names(root) == ["latest", "step_00000006", "step_00000009"]


def test_prune_removes_what_older_starts_left(root: Path) -> None:
    old = claim(root, from_step=0)
    for step in (3, 6):
        write(root, step=step, start=old)
    write_partial(root, step=9, start=old)
    start = claim(root, from_step=3)
    folders.prune(root, policy=Retention(keep_last=5), start=start)
    assert names(root) == ["latest", "step_00000003"]


def test_superseded_start_prunes_nothing(root: Path) -> None:
    old = claim(root, from_step=0)
    for step in (3, 6):
        write(root, step=step, start=old)
    claim(root, from_step=6)
    with pytest.raises(Superseded):
        folders.prune(root, policy=Retention(keep_last=1), start=old)
    with pytest.raises(Superseded):
        folders.delete(root / "step_00000003", start=old)
    assert names(root) == ["latest", "step_00000003", "step_00000006"]


def test_what_an_older_start_took_aside_comes_back(root: Path) -> None:
    """It slept between its last look at the fence and its rename, and died after it."""
    old = claim(root, from_step=0)
    newer = claim(root, from_step=0)
    folder = write(root, step=3, start=newer)
    folder.rename(root / f".{folder.name}.{old.number:06d}.c0ffee.aside")
    assert folders.newest(root) is None
    folders.remove_leftovers(root, start=claim(root))
    assert folders.newest(root) == folder
    assert starts.lineage(root.parent).from_steps == {1: 0, 2: 0}


def test_what_a_start_took_aside_and_did_not_delete_goes(root: Path) -> None:
    start = claim(root, from_step=0)
    folder = write(root, step=3, start=start)
    folder.rename(root / f".{folder.name}.{start.number:06d}.c0ffee.aside")
    folders.remove_leftovers(root, start=claim(root))
    assert names(root) == ["latest"]
