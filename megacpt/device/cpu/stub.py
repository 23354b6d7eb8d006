# SPDX-License-Identifier: Apache-2.0
"""What ``torch.cuda`` means to megatron-core on a CPU: one device, one stream, one generator.

import_hook.py next to it makes every ``torch.cuda`` inside ``megatron.core`` name this module;
``torch.cuda`` itself stays as it is. A CPU runs operations in the order they were called, so
streams and events have nothing to wait for. Functions without a counterpart here are missing on
purpose: megatron-core then fails with the name of what it asked for, and cannot start to use a GPU
behind the user's back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch

amp = torch.cuda.amp

HalfTensor = torch.HalfTensor
BFloat16Tensor = torch.BFloat16Tensor
FloatTensor = torch.FloatTensor
DoubleTensor = torch.DoubleTensor
ByteTensor = torch.ByteTensor
BoolTensor = torch.BoolTensor
IntTensor = torch.IntTensor
LongTensor = torch.LongTensor


class Event:
    """A moment in the one order of operations; already reached when anybody asks."""

    def __init__(self, *_: object, **__: object) -> None:
        self._recorded_s = 0.0

    def record(self, stream: object = None) -> None:
        self._recorded_s = time.perf_counter()

    def wait(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to ``end_event``, as ``torch.cuda.Event`` counts them."""
        return (end_event._recorded_s - self._recorded_s) * 1000.0


class Stream:
    """The one order of operations. All streams are equal, since there is no other."""

    def __init__(self, *_: object, **__: object) -> None:
        self.device = current_device()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    def __hash__(self) -> int:
        return hash(Stream)

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def record_event(self, event: Event | None = None) -> Event:
        event = event if event is not None else Event()
        event.record()
        return event

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (0, 0)


class nvtx:
    """Markers for NVIDIA's profilers, which see no CPU work."""

    @staticmethod
    def range_push(message: str) -> int:
        return 0

    @staticmethod
    def range_pop() -> int:
        return 0

    @staticmethod
    def range(message: str, *_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def current_device() -> torch.device:
    """A ``torch.device``, not an index: megatron-core passes it to ``device=`` only."""
    return torch.device("cpu")


def set_device(device: object) -> None:
    pass


def device_count() -> int:
    return 1


def is_available() -> bool:
    """False, so that megatron-core takes its own CPU branches where it has them."""
    return False


def is_initialized() -> bool:
    return True


def is_current_stream_capturing() -> bool:
    return False


def synchronize(device: object = None) -> None:
    pass


def empty_cache() -> None:
    pass


def current_stream(device: object = None) -> Stream:
    return Stream()


def default_stream(device: object = None) -> Stream:
    return Stream()


def set_stream(stream: object) -> None:
    pass


def stream(stream: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def device(device: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def manual_seed(seed: int) -> None:
    """Seed the generator that stands for the device's; on a CPU it is torch's own."""
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    manual_seed(seed)


def get_rng_state(device: object = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(new_state: torch.Tensor, device: object = None) -> None:
    torch.set_rng_state(new_state)


def host_parameter_groups(optimizer: Any) -> tuple[Any, ...]:
    """What megatron-core's HybridDeviceOptimizer offloads: all of it, each parameter an fp32 copy.

    On a GPU it tells a parameter from its copy in host memory by the device. Returns groups of
    copies, groups that stay on the device (none), parameter -> copy, copy -> parameter, and
    parameter -> fp32 copy of those that are narrower.
    """
    copies = {p: p.detach().clone().float() for g in optimizer.param_groups for p in g["params"]}
    groups = [g | {"params": [copies[p] for p in g["params"]]} for g in optimizer.param_groups]
    return (
        [group for group in groups if group["params"]],
        [],
        copies,
        {copy: param for param, copy in copies.items()},
        {param: copy for param, copy in copies.items() if param.dtype is not torch.float32},
    )


def _lazy_init() -> None:
    pass


def _lazy_call(callback: Callable[[], object], **_: object) -> None:
    callback()


def __getattr__(name: str) -> Any:
    """Classes are harmless to name, in an annotation or an ``isinstance``; functions are not."""
    found = getattr(torch.cuda, name, None)
    if isinstance(found, type):
        return found
    raise AttributeError(f"torch.cuda.{name} has no counterpart on a CPU (megacpt.device.cpu.stub)")
