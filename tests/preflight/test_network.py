# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from megacpt.preflight.network import (
    TimeServer,
    address_towards,
    ask_time,
    clock_is_synchronised,
    infiniband_ports,
    interfaces,
    is_loopback,
    own_address,
)


def test_addresses() -> None:
    assert address_towards("127.0.0.1", port=9) == "127.0.0.1"
    assert is_loopback("127.0.1.1")
    assert is_loopback("::1")
    assert not is_loopback("fe80::1%eth0")
    assert own_address("localhost") in ("127.0.0.1", "::1")
    assert own_address("no-such-host.invalid") is None
    assert not any(is_loopback(address) for address in interfaces().values())


def test_infiniband_ports_are_read_from_linux_files(tmp_path: Path) -> None:
    for name, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN")):
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    assert infiniband_ports(tmp_path) == {
        "mlx5_0:1": "ACTIVE 400 Gb/sec (4X NDR)",
        "mlx5_1:1": "DOWN 400 Gb/sec (4X NDR)",
    }
    assert infiniband_ports(tmp_path / "none") == {}


@pytest.mark.parametrize("ahead_s", [0.0, 120.0, -3.5])
def test_a_clock_is_read_within_its_error(ahead_s: float) -> None:
    with TimeServer(lambda: time.time() + ahead_s) as server:
        reading = ask_time("127.0.0.1", port=server.port, timeout_s=5)
    assert abs(reading.ahead_s - ahead_s) <= reading.error_s + 1e-3
    assert reading.error_s < 1.0


def test_nobody_answers_once_the_server_has_ended() -> None:
    with TimeServer() as server:
        ask_time("127.0.0.1", port=server.port, timeout_s=5, rounds=1)
    with pytest.raises(OSError, match="refused"):
        ask_time("127.0.0.1", port=server.port, timeout_s=5)


def test_one_that_accepts_and_is_silent_takes_no_longer_than_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started_s = time.monotonic()
        with pytest.raises(TimeoutError):
            ask_time("127.0.0.1", port=silent.getsockname()[1], timeout_s=0.2)
        assert time.monotonic() - started_s < 5


def test_one_that_closes_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises(ConnectionError):
            ask_time("127.0.0.1", port=address[1], timeout_s=5)


def test_the_kernel_is_asked() -> None:
    assert clock_is_synchronised() in (True, False, None)
