# SPDX-License-Identifier: Apache-2.0
"""Processes that share a folder, run in turns: each stops before every call to the file system.

Python tells an audit hook of each file it opens, renames, lists or deletes. Here that hook waits
until the actor in whose thread it happens has its turn; or it ends the actor there for good.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

FILE_EVENTS = ("open", "os.", "shutil.")


class CutOff(BaseException):
    """The actor is no more: whatever it was about to do does not happen."""


@dataclass(slots=True, kw_only=True)
class Actor:
    """One process. ``cut_at``: the call that it does not live to make."""

    act: Callable[[], None]
    cut_at: int | None = None
    calls: int = 0
    next_call: str = ""
    """Event and first argument of the call that the next turn makes."""
    is_cut: bool = False
    error: Exception | None = None
    done: bool = False
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _paused: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def take_turn(self) -> None:
        """Up to its next call to the file system, or its end."""
        if self._thread is None:
            _install_hook()
            self._thread = threading.Thread(target=self._live, daemon=True)
            self._thread.start()
        if not self.done:
            self._go.release()
            self._paused.acquire()

    def go_to(self, call: str) -> None:
        """As far as just before a call of which the pattern ``call`` is true."""
        while not fnmatchcase(self.next_call, call):
            assert not self.done, f"there was no {call}"
            self.take_turn()

    def finish(self) -> None:
        while not self.done:
            self.take_turn()

    def before_call(self, words: str) -> None:
        if self.is_cut:
            raise CutOff
        self.calls += 1
        if self.calls == self.cut_at:
            self.is_cut = True
            raise CutOff
        self.next_call = words
        self._paused.release()
        self._go.acquire()

    def _live(self) -> None:
        self._go.acquire()
        _here.actor = self
        try:
            self.act()
        except CutOff:
            pass
        except Exception as error:  # noqa: BLE001 - raised again by the test
            self.error = error
        finally:
            _here.actor = None
            self.done = True
            self._paused.release()


class _Here(threading.local):
    actor: Actor | None = None


_here = _Here()
_installed: list[bool] = []


def _install_hook() -> None:
    """Once: Python cannot take one away. In threads that are no actor it does nothing."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    actor = _here.actor
    if actor is not None and event.startswith(FILE_EVENTS):
        actor.before_call(f"{event} {arguments[0] if arguments else ''}")


def play(actors: list[Actor], turns: list[tuple[int, int]], *, order: list[int]) -> None:
    """``turns``: which actor, and how many calls it makes; then all to their ends in ``order``."""
    for index, calls in turns:
        for _ in range(calls):
            actors[index].take_turn()
    for index in order:
        actors[index].finish()
