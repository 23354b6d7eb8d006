# SPDX-License-Identifier: Apache-2.0
"""A hub of this machine, and an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer, hub_server, use


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        use(server, cache=tmp_path / "cache", patch=monkeypatch)
        yield server
