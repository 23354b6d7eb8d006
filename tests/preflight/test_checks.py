# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megacpt.config.sections import PreflightConfig
from megacpt.preflight.checks import (
    Mark,
    check_address,
    check_disk,
    check_gpus,
    check_server_clock,
    check_shm,
)
from megacpt.preflight.facts import Disk
from megacpt.preflight.gpus import Gpu, Gpus

LIMITS = PreflightConfig(disk_gib=1.0, disk_mib_s=2.0)


@pytest.mark.parametrize(
    ("disk", "mark", "words"),
    [
        (Disk(folder="/r", free_gib=9, written_mib_s=900), Mark.ok, "9.0 GiB free, 900 MiB/s"),
        (Disk(folder="/r", free_gib=9, written_mib_s=20), Mark.warn, "20 MiB/s"),
        (Disk(folder="/r", free_gib=9, written_mib_s=1), Mark.fail, "1 MiB/s"),
        (Disk(folder="/r", free_gib=0.5, written_mib_s=900), Mark.fail, "512.0 MiB free"),
        (Disk(folder="/r", problem="Permission denied"), Mark.fail, "Permission denied"),
    ],
)
def test_disk(disk: Disk, mark: Mark, words: str) -> None:
    finding = check_disk(disk, limits=LIMITS)
    assert finding.mark is mark
    assert words in finding.value
    assert bool(finding.remedy) is (mark is not Mark.ok)


def test_clock_of_a_file_server() -> None:
    (finding,) = check_server_clock(Disk(folder="/r", clock_ahead_s=-60.0))
    assert (finding.mark, finding.value) == (Mark.warn, "its clock is -60 s off this machine's")
    assert list(check_server_clock(Disk(folder="/r", clock_ahead_s=1.0))) == []


@pytest.mark.parametrize(
    ("free_mib", "on_gpu", "mark"),
    [
        (None, True, Mark.ok),
        (64.0, True, Mark.fail),
        (300.0, True, Mark.warn),
        (64.0, False, Mark.ok),
        (9000.0, True, Mark.ok),
    ],
)
def test_shared_memory(free_mib: float | None, on_gpu: bool, mark: Mark) -> None:
    least_mib = 8 * 32.0 if on_gpu else 0.0
    assert check_shm(free_mib, least_mib=least_mib, on_gpu=on_gpu).mark is mark


def card(index: int, **changes: object) -> Gpu:
    values = {"name": "H100", "memory_mib": 81920, "used_mib": 4} | changes
    return Gpu(index=index, **values)  # type: ignore[arg-type]


def test_gpus() -> None:
    (none,) = check_gpus(None, num_needed=0)
    assert none.mark is Mark.ok
    (no_tool,) = check_gpus(None, num_needed=8)
    assert no_tool.mark is Mark.warn
    (hung,) = check_gpus(Gpus(problem="nvidia-smi has not answered"), num_needed=0)
    assert (hung.mark, hung.own) == (Mark.fail, True)
    (few,) = check_gpus(Gpus(gpus=[card(0)]), num_needed=2)
    assert (few.mark, few.value, few.limit) == (Mark.fail, "1 GPUs", "2 ranks with one each")
    found = Gpus(
        driver="575",
        gpus=[card(0), card(1, faults=["a"], notes=["b"]), card(2, used_mib=40_000)],
    )
    assert [(f.check, f.mark, f.own) for f in check_gpus(found, num_needed=3)] == [
        ("GPUs", Mark.ok, False),
        ("GPU 1", Mark.fail, True),
        ("GPU 1", Mark.warn, False),
        ("GPU 2", Mark.warn, False),
    ]


def test_address() -> None:
    chosen = check_address("127.0.0.1", interface="ib0 (GLOO_SOCKET_IFNAME)", several=True)
    assert chosen.mark is Mark.ok
    assert check_address("127.0.1.1", interface=None, several=True).mark is Mark.fail
    assert check_address(None, interface=None, several=False).mark is Mark.warn
    assert check_address("10.0.0.1", interface=None, several=True).mark is Mark.ok
