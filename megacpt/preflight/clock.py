# SPDX-License-Identifier: Apache-2.0
"""Ask another node for the time: proof that it can be reached, and how far its clock is ahead.

The way of NTP: the answer was made somewhere between question and arrival, so half of the round
trip is how wrong the difference can be at most; of several rounds the quickest counts.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

ROUNDS = 5
_ANSWER = struct.Struct("!d")
_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
_TIMEX_BYTES, _STATUS_AT = 256, 40
"""More than sizeof(struct timex), and where its status lies with 64-bit longs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """``ahead_s``: the other clock minus this one, right within ``error_s``."""

    ahead_s: float
    error_s: float


class TimeServer:
    """Answers every byte with the time, on all addresses, until the block ends."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._listener = _listen()
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> TimeServer:
        threading.Thread(target=self._accept, name="time-server", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing alone would leave the thread waiting in accept(2).
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(60.0)
            try:
                while peer.recv(1):
                    peer.sendall(_ANSWER.pack(self._clock()))
            except OSError:
                return


def ask(address: str, *, port: int, timeout_s: float, rounds: int = ROUNDS) -> Reading:
    """OSError where nobody answers in time."""
    best: Reading | None = None
    with socket.create_connection((address, port), timeout=timeout_s) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            reading = _ask_once(peer)
            if best is None or reading.error_s < best.error_s:
                best = reading
    assert best is not None
    return best


def is_synchronised() -> bool | None:
    """Whether the kernel's clock is kept right (by NTP or a host); None where nobody can say."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    state = ctypes.create_string_buffer(_TIMEX_BYTES)
    # All zero: nothing is to be changed.
    if ctypes.CDLL(None, use_errno=True).adjtimex(state) < 0:
        return None
    (status,) = struct.unpack_from("i", state, _STATUS_AT)
    return not status & _UNSYNCHRONISED


def _ask_once(peer: socket.socket) -> Reading:
    asked_at, asked_s = time.time(), time.perf_counter()
    peer.sendall(b"?")
    answer = b""
    while len(answer) < _ANSWER.size:
        piece = peer.recv(_ANSWER.size - len(answer))
        if not piece:
            raise ConnectionResetError("the other node has closed the connection")
        answer += piece
    half_s = (time.perf_counter() - asked_s) / 2
    (other,) = _ANSWER.unpack(answer)
    return Reading(ahead_s=other - (asked_at + half_s), error_s=half_s)


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=512)
