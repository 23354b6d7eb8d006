# SPDX-License-Identifier: Apache-2.0
"""Addresses that may be written down, and those of this machine."""

from __future__ import annotations

import pytest

from megacpt.config.address import is_local, is_usable


@pytest.mark.parametrize(
    ("url", "usable", "local"),
    [
        ("https://host/v1", True, False),
        ("http://127.0.0.1:8000/v1", True, True),
        ("http://[::1]:8000/v1", True, True),
        ("http://localhost", True, True),
        ("http://127.0.0.1.example/v1", True, False),
        ("https://me:pw@host/v1", False, False),
        ("https://me@host/v1", False, False),
        ("ftp://host", False, False),
        ("host/v1", False, False),
        ("http://host:0", False, False),
        ("", False, False),
    ],
)
def test_addresses(url: str, usable: bool, local: bool) -> None:
    assert is_usable(url) == usable
    assert is_local(url) == local


def test_a_port_that_is_none() -> None:
    assert not is_usable("http://host:port")
