# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import threading
import time

import pytest

from megacpt.preflight.clock import TimeServer, ask, is_synchronised


@pytest.mark.parametrize("ahead_s", [0.0, 120.0, -3.5])
def test_a_clock_is_read_within_its_error(ahead_s: float) -> None:
    with TimeServer(lambda: time.time() + ahead_s) as server:
        reading = ask("127.0.0.1", port=server.port, timeout_s=5)
    assert abs(reading.ahead_s - ahead_s) <= reading.error_s + 1e-3
    assert reading.error_s < 1.0


def test_nobody_answers_once_the_server_has_ended() -> None:
    with TimeServer() as server:
        ask("127.0.0.1", port=server.port, timeout_s=5, rounds=1)
    with pytest.raises(OSError, match="refused"):
        ask("127.0.0.1", port=server.port, timeout_s=5)


def test_one_that_accepts_and_is_silent_takes_no_longer_than_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started_s = time.monotonic()
        with pytest.raises(TimeoutError):
            ask("127.0.0.1", port=silent.getsockname()[1], timeout_s=0.2)
        assert time.monotonic() - started_s < 5


def test_one_that_closes_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises(ConnectionError):
            ask("127.0.0.1", port=address[1], timeout_s=5)


def test_the_kernel_is_asked() -> None:
    assert is_synchronised() in (True, False, None)
