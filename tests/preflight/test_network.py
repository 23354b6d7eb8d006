# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from megacpt.preflight.network import (
    address_towards,
    infiniband_ports,
    interface_of,
    interfaces,
    is_loopback,
    own_address,
)


def test_addresses() -> None:
    assert address_towards("127.0.0.1", port=9) == "127.0.0.1"
    assert interface_of("127.0.0.1") in ("lo", "lo0")
    assert interface_of("192.0.2.99") is None
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
