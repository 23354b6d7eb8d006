# SPDX-License-Identifier: Apache-2.0
"""A program of ours that answers each line of JSON with a line of JSON: both of its ends.

What is run in it can be ended when it hangs, and is given its own environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class LineProcess:
    """The end that asks."""

    def __init__(self, module: str, *, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def exchange(self, said: object, *, timeout_s: float | None = None) -> dict[str, Any] | None:
        """A line there and a line back; None where the process has ended, as it does where it takes
        longer than ``timeout_s``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = json.dumps(said) + "\n"
        timer = None if timeout_s is None else threading.Timer(timeout_s, self._process.kill)
        if timer is not None:
            timer.start()
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if timer is not None:
                timer.cancel()
        if not line:
            self._process.wait()
            return None
        reply: dict[str, Any] = json.loads(line)
        return reply

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # Of a line that it did not live to read.
                    stream.close()


class Replies:
    """The end that answers. What libraries print goes to stderr from then on."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(self, reply: object) -> None:
        self._stream.write(json.dumps(reply) + "\n")
        self._stream.flush()
