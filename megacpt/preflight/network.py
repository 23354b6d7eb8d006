# SPDX-License-Identifier: Apache-2.0
"""The machine's addresses and InfiniBand ports, and whether other nodes answer, with their time.

A node that tells the time can be reached. The difference of two clocks is measured as NTP does it:
the answer was made somewhere between question and arrival, so it is wrong by half of the round trip
at most; of several rounds the quickest counts.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

INFINIBAND = Path("/sys/class/infiniband")
ROUNDS = 5
_ANSWER = struct.Struct("!d")
_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
_TIMEX_BYTES, _STATUS_AT = 256, 40
"""More than sizeof(struct timex), and where its status lies with 64-bit longs."""


def own_address(name: str | None = None) -> str | None:
    """What this machine's name stands for: the address gloo takes unless it is told another."""
    try:
        found = socket.getaddrinfo(name or socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return str(found[0][4][0])


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def address_towards(host: str, *, port: int) -> str:
    """The own address in use on the way to ``host``; nothing is sent."""
    family, kind, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interfaces() -> dict[str, str]:
    """Name -> IPv4 address, else IPv6, of every interface that is up and no loopback."""
    found = {}
    states = psutil.net_if_stats()
    for name, entries in psutil.net_if_addrs().items():
        addresses = [e.address for e in entries if e.family in (socket.AF_INET, socket.AF_INET6)]
        usable = [a for a in addresses if not is_loopback(a)]
        if usable and name in states and states[name].isup:
            found[str(name)] = str(usable[0])
    return found


def infiniband_ports(root: Path = INFINIBAND) -> dict[str, str]:
    """``mlx5_0:1`` -> ``ACTIVE 400 Gb/sec (4X NDR)``; Linux says so in files."""
    ports = {}
    for port in sorted(root.glob("*/ports/*")):
        state = _line(port / "state").partition(":")[2].strip()
        ports[f"{port.parents[1].name}:{port.name}"] = f"{state} {_line(port / 'rate')}".strip()
    return ports


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
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

    def __exit__(self, *_: object) -> None:
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


def ask_time(address: str, *, port: int, timeout_s: float, rounds: int = ROUNDS) -> ClockReading:
    """OSError where nobody answers in time."""
    with socket.create_connection((address, port), timeout=timeout_s) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        readings = [_ask_once(peer) for _ in range(rounds)]
    return min(readings, key=lambda reading: reading.error_s)


def clock_is_synchronised() -> bool | None:
    """Whether the kernel's clock is kept right (by NTP or a host); None where nobody can say."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    state = ctypes.create_string_buffer(_TIMEX_BYTES)
    # All zero: nothing is to be changed.
    if ctypes.CDLL(None, use_errno=True).adjtimex(state) < 0:
        return None
    (status,) = struct.unpack_from("i", state, _STATUS_AT)
    return not status & _UNSYNCHRONISED


def _ask_once(peer: socket.socket) -> ClockReading:
    asked_at, asked_s = time.time(), time.perf_counter()
    peer.sendall(b"?")
    answer = b""
    while len(answer) < _ANSWER.size:
        received = peer.recv(_ANSWER.size - len(answer))
        if not received:
            raise ConnectionResetError("the other node has closed the connection")
        answer += received
    half_s = (time.perf_counter() - asked_s) / 2
    (other,) = _ANSWER.unpack(answer)
    return ClockReading(ahead_s=other - (asked_at + half_s), error_s=half_s)


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=512)
