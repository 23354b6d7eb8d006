# SPDX-License-Identifier: Apache-2.0
"""Addresses of servers, as settings name them."""

from __future__ import annotations

from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_usable(url: str) -> bool:
    """Whether it is an address, and one that may be written down: without name and password."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
        )
    except ValueError:
        return False


def is_local(url: str) -> bool:
    """Whether what is sent there stays on this machine."""
    return urlsplit(url).hostname in LOOPBACK
