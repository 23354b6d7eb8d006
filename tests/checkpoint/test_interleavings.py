# SPDX-License-Identifier: Apache-2.0
"""Several starts of one run alive at once, in any order of their calls, cut off anywhere.

Each starts, chooses, saves and prunes as a run does. A checkpoint holds the whole history of the
run: the number of the start that took each step. At the end a last start must find the history of
the newest start that got as far as to save, to its last save.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from megacpt.checkpoint import folders, starts
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.retention import Retention
from megacpt.errors import Superseded
from tests.checkpoint.interleaving import Actor, play
from tests.checkpoint.small import manifest_of

STEPS_A_SAVE = 10
POLICY = Retention(keep_last=2)
MEMORY = Path("/dev/shm")
"""The tests of fsync are elsewhere; here it only costs time."""
History = tuple[int, ...]
"""Of each save so far, the number of the start that made it."""


@dataclass(slots=True, kw_only=True)
class Life:
    """What one start went through, as it knows it itself."""

    root: Path
    saves: int
    damages: bool
    """Before it starts, the newest checkpoint is damaged, if there is another."""
    number: int = 0
    origin: History | None = None
    """What it went on from; None: it never got so far."""
    saved: list[History] = field(default_factory=list)
    saving: History | None = None
    """Perhaps published."""
    damaged: History | None = None
    lost: bool = False

    def act(self) -> None:
        try:
            self._act()
        except Superseded:
            self.lost = True
        except OSError:
            # Its unfinished folder was deleted below it; that may happen to an old one only.
            assert max(starts._numbers(self.root.parent)) > self.number
            self.lost = True

    def _act(self) -> None:
        if self.damages:
            self.damaged = damage_newest(self.root)
        start = starts.claim(self.root.parent, host="node", pid=1)
        self.number = start.number
        folders.remove_leftovers(self.root, start=start)
        history = history_of(folders.newest(self.root))
        self.origin = history
        starts.record_from(start, step=STEPS_A_SAVE * len(history))
        for _ in range(self.saves):
            history = (*history, self.number)
            self.saving = history
            save(self.root, history, start=start)
            self.saved.append(history)
            self.saving = None
            folders.prune(self.root, policy=POLICY, start=start)

    def ends(self, *, damaged: set[History | None]) -> set[History]:
        """Histories that the run may go on from after it, if it comes last."""
        sound = [h for h in (self.origin, *self.saved) if h not in damaged and h is not None]
        return {*sound[-1:], *([self.saving] if self.saving is not None else [])}


def save(root: Path, history: History, *, start: starts.Start) -> None:
    step = STEPS_A_SAVE * len(history)
    partial = folders.partial_folder(root, step=step, start=start)
    partial.mkdir(parents=True)
    (partial / "history.json").write_text(json.dumps(history))
    manifest = manifest_of(partial, step=step, start=start)
    folders.publish(root, partial=partial, manifest=manifest, start=start)


def history_of(folder: Path | None) -> History:
    return () if folder is None else tuple(json.loads((folder / "history.json").read_text()))


def damage_newest(root: Path) -> History | None:
    usable = [c for c in folders.published(root) if c.problem is None]
    if len(usable) < 2:
        return None
    history = history_of(usable[0].folder)
    (usable[0].folder / "history.json").write_text("")
    return history


def allowed(lives: list[Life]) -> set[History]:
    """From the newest start down to one that has surely saved: nothing of it may be lost."""
    damaged = {life.damaged for life in lives}
    found: set[History] = set()
    for life in sorted(lives, key=lambda life: -life.number):
        found |= life.ends(damaged=damaged)
        if set(life.saved) - damaged:
            return found
    return found | {()}


TURNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 120)), max_size=20)
CUTS = st.none() | st.integers(1, 300)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    turns=TURNS,
    cuts=st.lists(CUTS, min_size=3, max_size=3),
    saves=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    damages=st.integers(0, 3),
    order=st.permutations([0, 1, 2]),
)
def test_newest_start_loses_nothing_and_no_other_is_followed(
    turns: list[tuple[int, int]],
    cuts: list[int | None],
    saves: list[int],
    damages: int,
    order: list[int],
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        root = Path(folder) / "run" / "checkpoints"
        root.mkdir(parents=True)
        lives = [Life(root=root, saves=n, damages=i == damages) for i, n in enumerate(saves)]
        actors = [Actor(act=life.act, cut_at=cut) for life, cut in zip(lives, cuts, strict=True)]
        play(actors, turns, order=order)
        for actor in actors:
            if actor.error is not None:
                raise actor.error
        newest = max(starts._numbers(root.parent), default=0)
        assert not any(life.lost for life in lives if life.number == newest)
        event(f"superseded: {sum(life.lost for life in lives)}")
        check_what_a_next_start_finds(root, lives)


def check_what_a_next_start_finds(root: Path, lives: list[Life]) -> None:
    start = starts.claim(root.parent, host="node", pid=1)
    folders.remove_leftovers(root, start=start)
    folder = folders.newest(root, full=True)
    history = history_of(folder)
    assert history in allowed(lives), (history, lives)
    if folder is not None:
        manifest = CheckpointManifest.read(folder)
        assert manifest.start == history[-1]
        assert manifest.step == STEPS_A_SAVE * len(history)
    assert not [p for p in root.glob(".*") if not p.name.endswith(".aside")]


class Asleep:
    """One start stops just before a call, others run, it wakes up."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "run" / "checkpoints"
        self.root.mkdir(parents=True)

    def life(self, *, saves: int, back_to: int | None = None) -> Actor:
        """``back_to``: the run goes on from this step, as when what came after it was damaged."""

        def act() -> None:
            start = starts.claim(self.root.parent, host="node", pid=1)
            history: History = ()
            if back_to != 0:
                found = {c.step: c.folder for c in folders.published(self.root) if not c.problem}
                history = history_of(found[back_to if back_to is not None else max(found)])
            starts.record_from(start, step=STEPS_A_SAVE * len(history))
            for _ in range(saves):
                history = (*history, start.number)
                save(self.root, history, start=start)
            folders.prune(self.root, policy=POLICY, start=start)

        return Actor(act=act)

    def published(self) -> dict[int, History]:
        return {c.step: history_of(c.folder) for c in folders.published(self.root)}


def test_publisher_that_wakes_up_replaces_nothing_newer(tmp_path: Path) -> None:
    """It has seen an old checkpoint of its step in the way; what it takes away is a new one."""
    run = Asleep(tmp_path)
    run.life(saves=2, back_to=0).finish()
    sleeper = run.life(saves=1, back_to=10)
    sleeper.go_to("os.rename " + str(run.root / "step_00000020"))
    run.life(saves=1, back_to=10).finish()
    assert run.published() == {10: (1,), 20: (1, 3)}
    sleeper.finish()
    assert isinstance(sleeper.error, Superseded)
    assert run.published() == {10: (1,), 20: (1, 3)}


def test_pruner_that_wakes_up_deletes_nothing_newer(tmp_path: Path) -> None:
    run = Asleep(tmp_path)
    run.life(saves=2, back_to=0).finish()
    sleeper = run.life(saves=0, back_to=10)
    sleeper.go_to("os.rename " + str(run.root / "step_00000020"))
    run.life(saves=1, back_to=10).finish()
    sleeper.finish()
    assert isinstance(sleeper.error, Superseded)
    assert run.published() == {10: (1,), 20: (1, 3)}


def test_one_that_dies_with_a_newer_one_taken_away_loses_nothing(tmp_path: Path) -> None:
    run = Asleep(tmp_path)
    run.life(saves=2, back_to=0).finish()
    sleeper = run.life(saves=0, back_to=10)
    sleeper.go_to("os.rename " + str(run.root / "step_00000020"))
    run.life(saves=1, back_to=10).finish()
    sleeper.take_turn()
    sleeper.is_cut = True
    sleeper.finish()
    assert run.published() == {10: (1,)}
    folders.remove_leftovers(run.root, start=starts.claim(run.root.parent, host="node", pid=1))
    assert run.published() == {10: (1,), 20: (1, 3)}


def test_late_publisher_is_not_followed_and_not_in_the_way(tmp_path: Path) -> None:
    run = Asleep(tmp_path)
    run.life(saves=1, back_to=0).finish()
    sleeper = run.life(saves=2)
    sleeper.go_to("os.rename " + str(run.root / ".step_00000030.000002.partial"))
    newer = run.life(saves=1, back_to=10)
    newer.go_to("os.rename " + str(run.root / ".step_00000020.000003.partial"))
    sleeper.finish()
    assert isinstance(sleeper.error, Superseded)
    assert run.published() == {10: (1,), 20: (1, 2), 30: (1, 2, 2)}
    assert folders.newest(run.root) == run.root / "step_00000010"
    newer.finish()
    assert newer.error is None
    assert run.published() == {10: (1,), 20: (1, 3)}


def test_unfinished_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    """A newer start deletes it while its writer is about to publish it."""
    run = Asleep(tmp_path)
    run.life(saves=1, back_to=0).finish()
    sleeper = run.life(saves=1)
    partial = str(run.root / ".step_00000020.000002.partial")
    sleeper.go_to("os.rename " + partial)
    newer = run.life(saves=0, back_to=10)
    newer.go_to("shutil.rmtree " + str(run.root / ".step_00000020*"))
    sleeper.finish()
    newer.finish()
    assert isinstance(sleeper.error, Superseded)
    assert newer.error is None
    assert run.published() == {10: (1,)}


def test_reader_is_not_stopped_by_what_is_deleted_before_its_eyes(tmp_path: Path) -> None:
    run = Asleep(tmp_path)
    run.life(saves=1, back_to=0).finish()
    found: list[Path | None] = []
    reader = Actor(act=lambda: found.append(folders.newest(run.root)))
    reader.go_to("open " + str(run.root / "step_00000010" / "manifest.json"))
    run.life(saves=0, back_to=0).finish()
    reader.finish()
    assert reader.error is None
    assert found == [None]
