# SPDX-License-Identifier: Apache-2.0
"""A rank's device, threads, process group and generators: the one place that knows CUDA.

``start`` must run before the first import of ``megatron.core``, which on a CPU it makes loadable.
"""

from __future__ import annotations

import random
import resource
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from megacpt.config.sections import ClusterConfig, DeviceKind, Dtype
from megacpt.device import environment
from megacpt.device.environment import RankInfo
from megacpt.errors import EnvironmentError_

_BACKEND = {DeviceKind.cpu: "gloo", DeviceKind.gpu: "nccl"}
_TORCH_DTYPE = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}
_TRACKER_MODULE = "megatron.core.tensor_parallel.random"
_TRACKER_PREFIX = "tracker/"
_MEASURE_S = 0.3

# Dense bf16 tensor-core and plain fp32 peak FLOP/s (mcore leaves TF32 off). First match wins, so
# the narrower name stands first. Sources: NVIDIA data sheets of H100 (PCIe and SXM columns, the
# sparse figures halved), H200, B200, A100, L40S, L4, A10 and V100.
_PEAK_FLOPS: tuple[tuple[str, dict[Dtype, float]], ...] = (
    ("B200", {Dtype.bf16: 2250e12, Dtype.fp32: 75e12}),
    ("GH200", {Dtype.bf16: 989e12, Dtype.fp32: 67e12}),
    ("H200", {Dtype.bf16: 989e12, Dtype.fp32: 67e12}),
    ("H100 NVL", {Dtype.bf16: 835e12, Dtype.fp32: 60e12}),
    ("H100 PCIe", {Dtype.bf16: 756e12, Dtype.fp32: 51e12}),
    ("H100", {Dtype.bf16: 989e12, Dtype.fp32: 67e12}),
    ("H800", {Dtype.bf16: 989e12, Dtype.fp32: 67e12}),
    ("A100", {Dtype.bf16: 312e12, Dtype.fp32: 19.5e12}),
    ("A800", {Dtype.bf16: 312e12, Dtype.fp32: 19.5e12}),
    ("L40S", {Dtype.bf16: 362e12, Dtype.fp32: 91.6e12}),
    ("L4", {Dtype.bf16: 121e12, Dtype.fp32: 30.3e12}),
    ("A10", {Dtype.bf16: 125e12, Dtype.fp32: 31.2e12}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What ``start`` decided. ``kind`` is ``cpu`` or ``gpu``, never ``auto``."""

    kind: DeviceKind
    device: torch.device
    ranks: RankInfo


def start(ranks: RankInfo, cluster: ClusterConfig) -> Runtime:
    """Take the device, make megatron-core fit it, and join the process group."""
    kind = _choose_kind(cluster.device)
    if kind is DeviceKind.gpu:
        device = _own_gpu(ranks)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        from megacpt.device import hook

        hook.install()
    torch.set_num_threads(_num_threads(cluster.threads_per_rank, ranks=ranks))
    _join_process_group(ranks, kind=kind, timeout=timedelta(minutes=cluster.timeout_minutes))
    return Runtime(kind=kind, device=device, ranks=ranks)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _choose_kind(asked: DeviceKind) -> DeviceKind:
    if asked is DeviceKind.gpu and not torch.cuda.is_available():
        raise EnvironmentError_(
            "cluster.device=gpu needs a GPU that torch can use, and it sees none; check "
            "nvidia-smi and CUDA_VISIBLE_DEVICES, or use cluster.device=cpu."
        )
    if asked is not DeviceKind.auto:
        return asked
    return DeviceKind.gpu if torch.cuda.is_available() else DeviceKind.cpu


def _own_gpu(ranks: RankInfo) -> torch.device:
    """The GPU with this rank's local number, or the only one that srun lets this task see."""
    num_gpus = torch.cuda.device_count()
    if num_gpus == 1 and environment.is_srun_task():
        return torch.device("cuda", 0)
    if num_gpus < ranks.local_world_size:
        raise EnvironmentError_(
            f"{ranks.local_world_size} ranks on this machine need a GPU each, but {num_gpus} are "
            "visible; lower parallel.tp, cp, pp or dp, or use cluster.device=cpu."
        )
    return torch.device("cuda", ranks.local_rank)


def _num_threads(asked: int, *, ranks: RankInfo) -> int:
    """The configuration's word, then OMP_NUM_THREADS, then a fair share of the cores."""
    if asked > 0:
        return asked
    share = max(1, environment.num_cores() // ranks.local_world_size)
    return environment.threads_from_environment() or share


def _join_process_group(ranks: RankInfo, *, kind: DeviceKind, timeout: timedelta) -> None:
    backend = _BACKEND[kind]
    if ranks.world_size == 1:
        # Nobody to meet, so no port and no file: the store lives in this process.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
        return
    if kind is DeviceKind.cpu and ranks.local_world_size == ranks.world_size:
        # gloo otherwise binds to the address of the host name, which a laptop may lose mid-run.
        environment.set_default("GLOO_SOCKET_IFNAME", _loopback_interface())
    dist.init_process_group(
        backend,
        init_method=f"tcp://{ranks.master_addr}:{ranks.master_port}",
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
    )


def _loopback_interface() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return "lo0" if "lo0" in names else "lo"


def _uses_gpu() -> bool:
    """Whether this process has taken a GPU; a CPU rank never does, even next to one."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def seed_all(seed: int) -> None:
    """Seed every global generator a library might draw from, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, torch.Tensor]:
    """States of torch's generators and of megatron-core's tracked ones, by name."""
    state = {"cpu": torch.get_rng_state()}
    if _uses_gpu():
        state["cuda"] = torch.cuda.get_rng_state()
    if _TRACKER_MODULE in sys.modules:
        tracked = sys.modules[_TRACKER_MODULE].get_cuda_rng_tracker().get_states()
        state |= {f"{_TRACKER_PREFIX}{name}": value.clone() for name, value in tracked.items()}
    return state


def set_rng_state(state: Mapping[str, torch.Tensor]) -> None:
    """Continue from ``state``; the inverse of ``rng_state`` on a device of the same kind."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and _uses_gpu():
        torch.cuda.set_rng_state(state["cuda"])
    if _TRACKER_MODULE in sys.modules:
        tracked = {
            name.removeprefix(_TRACKER_PREFIX): value.clone()
            for name, value in state.items()
            if name.startswith(_TRACKER_PREFIX)
        }
        sys.modules[_TRACKER_MODULE].get_cuda_rng_tracker().set_states(tracked)


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def page_locked(tensor: torch.Tensor, *, device: torch.device) -> torch.Tensor:
    """A copy in host memory that ``device`` reads by itself; on a CPU the tensor as it is.

    The device is named because a background thread starts on the first GPU, where a context of
    every rank would waste memory.
    """
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):
        return tensor.pin_memory()


def peak_memory_bytes() -> int:
    """Most memory this rank ever held: of the GPU's allocator, or resident on a CPU."""
    if _uses_gpu():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_flops(dtype: Dtype) -> float:
    """FLOP/s this rank's device can do at best: from the data sheet of a GPU, else measured."""
    if not _uses_gpu():
        return _measured_flops(_TORCH_DTYPE[dtype], device=torch.device("cpu"))
    known = known_flops(torch.cuda.get_device_name(), dtype=dtype)
    if known is not None:
        return known
    return _measured_flops(_TORCH_DTYPE[dtype], device=torch.device("cuda"))


def known_flops(gpu: str, *, dtype: Dtype) -> float | None:
    """Dense peak of the GPU of that name; None if it is not in the table."""
    for name, flops in _PEAK_FLOPS:
        if name.lower() in gpu.lower():
            return flops[dtype]
    return None


def _measured_flops(dtype: torch.dtype, *, device: torch.device) -> float:
    """Best rate of square matrix products of growing size within ``_MEASURE_S``."""
    best = 0.0
    deadline_s = time.perf_counter() + _MEASURE_S
    size = 256
    while True:
        a = torch.ones(size, size, dtype=dtype, device=device)
        started_s = time.perf_counter()
        torch.mm(a, a)
        synchronize(device)
        ended_s = time.perf_counter()
        best = max(best, 2 * size**3 / (ended_s - started_s))
        # A product of twice the size takes eight times as long; a slow CPU stays at a small one.
        if size < 2048 and ended_s + 16 * (ended_s - started_s) < deadline_s:
            size *= 2
        elif ended_s + (ended_s - started_s) > deadline_s:
            return best
