# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several packages' tests share."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.hub_server import HubServer, hub_server, use
from tests.support import free_port

# A run of wandb costs five seconds of CPU, and a test run six: what is about wandb asks for it.
os.environ.setdefault("WANDB_MODE", "disabled")


def pytest_configure() -> None:
    # A shell that starts `make test &` ignores Ctrl-C for it and for all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine is no failure.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--megatron-lm", help="checkout of Megatron-LM, to run its own tool")
    parser.addoption("--megatron-python", default=sys.executable, help="a Python that imports it")
    parser.addoption(
        "--thorough",
        action="store_true",
        help="tests marked so, too, and of others more cases (make test-thorough)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, or the last of them would run alone while other workers wait."""
    if "megatron.core" in sys.modules:
        # Whoever starts a rank in a test then finds it unprepared for a CPU.
        raise pytest.UsageError("a test file imports megatron.core at its top; import it in a test")
    if not config.getoption("--thorough"):
        items[:] = [item for item in items if item.get_closest_marker("thorough") is None]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """The thousands of tests stay to the end: no collection need look through them again."""
    gc.freeze()


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """This process as the only rank of a megatron-core world on the CPU."""
    from megacpt.device.environment import RankInfo
    from tests.rank import rank_on_cpu

    ranks = RankInfo(
        rank=0,
        world_size=1,
        local_rank=0,
        local_world_size=1,
        master_addr="127.0.0.1",
        master_port=free_port(),
    )
    with rank_on_cpu(ranks, timeout_minutes=10):
        from megatron.core import parallel_state

        parallel_state.initialize_model_parallel()
        yield
        parallel_state.destroy_model_parallel()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's model, unpacked once for all workers of pytest; only to be read."""
    from megacpt.demo.base_model import write_smollm2_folder
    from megacpt.errors import EnvironmentError_

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return write_smollm2_folder(shared / "smollm2")
        except EnvironmentError_ as error:
            pytest.skip(str(error))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub of this machine, and an empty cache."""
    with hub_server() as server:
        use(server, cache=tmp_path / "cache", patch=monkeypatch)
        yield server
