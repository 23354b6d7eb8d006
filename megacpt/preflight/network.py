# SPDX-License-Identifier: Apache-2.0
"""The machine's names, addresses and InfiniBand ports, as other nodes meet them."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import psutil

INFINIBAND = Path("/sys/class/infiniband")
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def node_name() -> str:
    """What Slurm calls this machine, which ``--exclude`` wants; else its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def slurm_hosts() -> str:
    """The nodes of this job step as Slurm writes them; empty without Slurm."""
    return os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")


def chosen_interface() -> str | None:
    """``NAME (VARIABLE)`` where the user has chosen the interface that ranks meet on."""
    for variable in INTERFACE_VARIABLES:
        if os.environ.get(variable):
            return f"{os.environ[variable]} ({variable})"
    return None


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


def interface_of(address: str) -> str | None:
    """The name of the interface that has ``address``."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    return None


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
