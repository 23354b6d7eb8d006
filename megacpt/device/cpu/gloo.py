# SPDX-License-Identifier: Apache-2.0
"""Let all process groups of a rank share one gloo device: a thread, and the sockets that it polls.

torch opens a device for each group, whose thread wakes a hundred times a second, also while there
is nothing to do. megatron-core makes twenty groups and more, so on a CPU such threads take a good
part of the time that products should have.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import ProcessGroupGloo

_Group: Any = ProcessGroupGloo  # What is set here, torch's own annotations do not have.
_OWN_INIT = _Group.__init__


def share_device() -> None:
    """Give the groups that torch makes from now on the device of the default group.

    ``new_group`` hands no options on to gloo, so it is done where torch makes the backend.
    """
    default: Any = dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    if not isinstance(default, ProcessGroupGloo) or not hasattr(default, "options"):
        return  # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps it, and an older torch does not show them.
    shared: Any = default.options

    def init(self: Any, *place: Any, timeout: timedelta | None = None, **others: Any) -> None:
        if timeout is not None:
            options = _Group._Options()
            options._devices, options._threads = shared._devices, shared._threads
            options._timeout = timeout
            others = {"options": options}
        _OWN_INIT(self, *place, **others)

    _Group.__init__ = init


def stop_sharing() -> None:
    """Groups are torch's own again."""
    _Group.__init__ = _OWN_INIT
