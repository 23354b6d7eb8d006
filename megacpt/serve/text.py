# SPDX-License-Identifier: Apache-2.0
"""Text of tokens as they come: whole characters, and nothing of a stop text that has begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character yet."""
CONTEXT_TOKENS = 6
"""Tokens before a new one that its text can depend on, such as a space that the first lacks."""

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """``put`` returns the text that a token has made certain; ``prompt_ids`` come before."""

    def __init__(self, decode: Decode, *, prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-CONTEXT_TOKENS:])
        self._start, self._told = 0, len(self._ids)

    def put(self, token: int) -> str:
        self._ids.append(token)
        return self._new(flush=False)

    def flush(self) -> str:
        """What is left, unfinished characters included."""
        return self._new(flush=True)

    def _new(self, *, flush: bool) -> str:
        before = self._decode(self._ids[self._start : self._told])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith(UNFINISHED) and not flush):
            return ""
        self._start, self._told = self._told, len(self._ids)
        return text[len(before) :]


class StopScanner:
    """Passes text on until a stop text is complete; ``stopped`` says whether one was."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped = False

    def put(self, text: str) -> str:
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            passed, self._held = self._held[: min(found)], ""
            return passed
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def flush(self) -> str:
        """What was held back for a stop text that has not come."""
        passed, self._held = self._held, ""
        return passed

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of what is held that a stop text begins with."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if stop.startswith(self._held[-n:])), 0)
