# SPDX-License-Identifier: Apache-2.0
"""One answer on all ranks, made by the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from megacpt.errors import MegacptError

T = TypeVar("T")


def from_first_rank(make: Callable[[], T]) -> T:
    """What ``make`` gives on the first rank, on every rank: a shared file system may lag.

    Where it refuses, all ranks do.
    """
    found: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            found[0] = make()
        except MegacptError as error:
            found[1] = error
    torch.distributed.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    made: T = found[0]
    return made
