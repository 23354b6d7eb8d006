# SPDX-License-Identifier: Apache-2.0
"""``megacpt checkpoints``: what it shows in 80 columns, what it deletes, what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.checkpoint import folders, starts
from megacpt.checkpoint.difference import compare
from megacpt.checkpoint.listing import list_checkpoints, prune_listed
from megacpt.checkpoint.retention import Retention
from megacpt.cli import main
from megacpt.config.compose import compose, write_run_yaml
from megacpt.errors import CheckpointError, Superseded
from megacpt.monitor.checkpoints_text import difference_text, listing_text
from tests.checkpoint.small import claim, write, write_partial

KEEP = Retention(keep_last=2, best_of="plant")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Start 1 came to step 40; start 2 went on from 30, where 40 was damaged, and saves 50."""
    run_dir = tmp_path / "run"
    root = run_dir / "checkpoints"
    first = claim(root, from_step=0)
    losses = {10: 1.25, 20: 2.5, 30: 2.0, 40: 1.5}
    for step, loss in losses.items():
        write(root, step=step, start=first, heldout={"plant": loss})
    (root / "step_00000020" / "common.pt").write_bytes(bytes(40))
    second = claim(root, from_step=30, host="node8")
    write_partial(root, step=50, start=second)
    write_run_yaml(compose(["experiment=tiny", f"run_dir={run_dir}"]), path=run_dir / "run.yaml")
    return run_dir


def listed(run_dir: Path, *, full: bool = False) -> list[str]:
    text = listing_text(list_checkpoints(run_dir, policy=KEEP, loss_of="plant", full=full))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    return [" ".join(line.split()) for line in lines]


def without_time(line: str) -> str:
    words = line.split()
    return " ".join([*words[:4], *words[6:]])


def test_table_says_what_each_is_and_why_some_are_never_chosen(run_dir: Path) -> None:
    lines = listed(run_dir)
    assert [without_time(line) for line in lines[1:5]] == [
        "40 1 440 B 1.5000 left",
        "30 1 440 B 2.0000 last newest",
        "20 1 440 B 2.5000 last sound",
        "10 1 440 B 1.2500 best sound",
    ]
    assert lines[6:8] == [
        "Never resumed from:",
        "step 40 written by start 1, but start 2 has gone on from step 30",
    ]
    assert "incomplete step 50, of start 2" in lines
    assert "verified sizes only; --verify reads every byte" in lines
    (start,) = [line for line in lines if line.startswith("newest start")]
    assert start.startswith("newest start 2 (node8, process 4711), 20")
    assert start.endswith(", from step 30")


def test_reading_all_finds_more_and_tells_how_far_it_is(run_dir: Path) -> None:
    lines = listed(run_dir, full=True)
    assert without_time(lines[3]) == "20 1 440 B 2.5000 damaged"
    assert (
        "step 20 common.pt has other contents than were written (its checksum differs)"
        in " ".join(lines)
    )
    calls: list[tuple[int, int]] = []
    list_checkpoints(run_dir, policy=KEEP, full=True, progress=lambda *call: calls.append(call))
    assert calls[-1] == (3 * 440, 3 * 440)
    assert calls == sorted(calls)


def test_prune_deletes_what_was_seen_to_be_damaged_or_left(run_dir: Path) -> None:
    listing = list_checkpoints(run_dir, policy=KEEP, full=True)
    left = prune_listed(listing, policy=KEEP)
    root = run_dir / "checkpoints"
    assert [p.name for p in left.removed] == ["step_00000040", "step_00000020"]
    assert sorted(p.name for p in root.glob("step_*")) == ["step_00000010", "step_00000030"]
    assert left.partials == listing.partials
    text = listing_text(left)
    assert "deleted        step_00000020, step_00000040" in text
    assert starts.lineage(run_dir).from_steps == {1: 0, 2: 30}, "it is no start of the run"


def test_prune_leaves_the_last_hope(run_dir: Path) -> None:
    root = run_dir / "checkpoints"
    for folder in root.glob("step_*"):
        (folder / "manifest.json").unlink()
    listing = list_checkpoints(run_dir, policy=KEEP)
    assert prune_listed(listing, policy=KEEP).removed == ()
    assert len(list(root.glob("step_*"))) == 4


def test_prune_yields_to_a_start_claimed_meanwhile(run_dir: Path) -> None:
    listing = list_checkpoints(run_dir, policy=KEEP)
    claim(run_dir / "checkpoints")
    with pytest.raises(Superseded):
        prune_listed(listing, policy=KEEP)
    assert len(folders.published(run_dir / "checkpoints")) == 4


def test_folder_of_no_run_is_not_pruned(tmp_path: Path) -> None:
    listing = list_checkpoints(tmp_path, policy=KEEP)
    assert listing_text(listing).startswith(f"{tmp_path} has no complete checkpoint yet.")
    with pytest.raises(CheckpointError, match="has no start of a run on record"):
        prune_listed(listing, policy=KEEP)


def test_difference_counts_from_one_to_the_other(run_dir: Path) -> None:
    text = difference_text(compare(run_dir, first=10, second=40), first=10, second=40)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "step 10 step 40"
    assert "tokens of domain 100 400 +300" in lines
    assert "training 0:15 1:00 +0:45" in lines
    assert "held-out plant 1.2500 1.5000 +0.2500" in lines
    assert "size 440 B 440 B" in lines
    assert max(len(line) for line in text.splitlines()) <= 80
    assert not [line for line in lines if line.startswith(("layout", "model"))]


def test_difference_of_a_step_that_is_not_there(run_dir: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no checkpoint of step 15; there are: 10, 20, 30, 40\."
    ):
        compare(run_dir, first=10, second=15)


def test_verb(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run_dir)]) == 0
    assert capsys.readouterr().out.endswith(f"Next: megacpt checkpoints {run_dir} --verify\n")
    assert main(["checkpoints", str(run_dir), "--verify"]) == 1
    assert capsys.readouterr().out.endswith(f"Next: megacpt checkpoints {run_dir} --prune\n")
    assert main(["checkpoints", str(run_dir), "--diff", "10", "40"]) == 0
    assert "+300" in capsys.readouterr().out
    words = ["--verify", "--prune", "--keep-last", "1", "--keep-every-steps", "5"]
    assert main(["checkpoints", str(run_dir), *words]) == 0
    shown = capsys.readouterr().out
    assert "every 5" in shown
    assert shown.endswith(f"Next: megacpt evaluate {run_dir}\n")
    assert main(["checkpoints", str(run_dir), "--keep-last", "0"]) == 2
    assert "--keep-last=0 is below 1; use 1 or more." in capsys.readouterr().err


def test_verb_where_nothing_can_be_used(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (run_dir / "checkpoints").glob("step_*"):
        (folder / "common.pt").unlink()
    assert main(["checkpoints", str(run_dir)]) == 1
    assert "Next: bring one back from a copy; or move them away" in capsys.readouterr().out


def test_weights_are_asked_for_with_two_checkpoints(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", str(run_dir), "--weights"]) == 2
    assert "--weights belongs to --diff STEP STEP; name the two checkpoints." in (
        capsys.readouterr().err
    )
