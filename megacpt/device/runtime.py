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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from megacpt.config.sections import ClusterConfig, DeviceKind, Dtype, PrecisionConfig, Recipe
from megacpt.device import environment
from megacpt.device.cpu import bf16_products, gloo, host_memory, import_hook
from megacpt.device.environment import RankInfo
from megacpt.errors import EnvironmentError_

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_BACKEND = {DeviceKind.cpu: "gloo", DeviceKind.gpu: "nccl"}
_TORCH_DTYPE = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}
_TRACKER_MODULE = "megatron.core.tensor_parallel.random"
_TRACKER_PREFIX = "tracker/"
_MEASURE_S = 0.3

# Dense tensor-core FLOP/s (fp32: of the plain units, as TF32 is off). First match wins, so the
# narrower name stands first. Sources: NVIDIA's data sheets of H100 (PCIe, SXM and NVL columns, the
# sparse figures halved), H200, GB200, B200, A100, L40S, L4 and A10.
_PEAK_FLOPS: tuple[tuple[str, dict[str, float]], ...] = (
    ("GB200", {"fp4": 10000e12, "fp8": 5000e12, "bf16": 2500e12, "fp32": 80e12}),
    ("B200", {"fp4": 9000e12, "fp8": 4500e12, "bf16": 2250e12, "fp32": 75e12}),
    ("GH200", {"fp8": 1979e12, "bf16": 989e12, "fp32": 67e12}),
    ("H200 NVL", {"fp8": 1671e12, "bf16": 835e12, "fp32": 60e12}),
    ("H200", {"fp8": 1979e12, "bf16": 989e12, "fp32": 67e12}),
    ("H100 NVL", {"fp8": 1671e12, "bf16": 835e12, "fp32": 60e12}),
    ("H100 PCIe", {"fp8": 1513e12, "bf16": 756e12, "fp32": 51e12}),
    ("H100", {"fp8": 1979e12, "bf16": 989e12, "fp32": 67e12}),
    ("H800", {"fp8": 1979e12, "bf16": 989e12, "fp32": 67e12}),
    ("A100", {"bf16": 312e12, "fp32": 19.5e12}),
    ("A800", {"bf16": 312e12, "fp32": 19.5e12}),
    ("L40S", {"fp8": 733e12, "bf16": 362e12, "fp32": 91.6e12}),
    ("L4", {"fp8": 242e12, "bf16": 121e12, "fp32": 30.3e12}),
    ("A10", {"bf16": 125e12, "fp32": 31.2e12}),
)
_FORMAT = {Recipe.none: None, Recipe.nvfp4: "fp4"}
"""Number format of a recipe's products where it is not fp8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What a device can do at best, and in which products."""

    flops: float
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What ``start`` decided. ``kind`` is ``cpu`` or ``gpu``, never ``auto``."""

    kind: DeviceKind
    device: torch.device
    ranks: RankInfo


def meet(ranks: RankInfo, *, timeout: timedelta) -> Store:
    """The ranks' common store, without waiting for those that have not come yet."""
    if ranks.world_size == 1:
        # Nobody to meet, so no port and no file: the store lives in this process.
        return dist.HashStore()  # type: ignore[attr-defined]
    return dist.TCPStore(  # type: ignore[attr-defined]
        ranks.master_addr,
        ranks.master_port,
        ranks.world_size,
        # torchrun has started the server itself, and says so to its ranks.
        ranks.rank == 0 and not environment.has_agent_store(),
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )


def start(
    ranks: RankInfo,
    *,
    cluster: ClusterConfig,
    deterministic: bool = False,
    store: Store | None = None,
) -> Runtime:
    """Take the device, make megatron-core fit it, and join the process group.

    ``store``: of ``meet``, where the ranks have met already.
    """
    kind = _choose_kind(cluster.device)
    _set_arithmetic(deterministic=deterministic)
    if kind is DeviceKind.gpu:
        device = _own_gpu(ranks)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        import_hook.install()
        host_memory.keep_freed()
        bf16_products.install()
    torch.set_num_threads(_num_threads(cluster.threads_per_rank, ranks=ranks))
    timeout = timedelta(minutes=cluster.timeout_minutes)
    _join_process_group(ranks, device=device, timeout=timeout, store=store)
    return Runtime(kind=kind, device=device, ranks=ranks)


def stop() -> None:
    """Leave the process group, if there is one, and megatron-core's groups, or this process could
    not be a rank again."""
    gloo.stop_sharing()
    if dist.is_initialized():
        _forget_groups()
        dist.destroy_process_group()


def _forget_groups() -> None:
    groups = sys.modules.get("megatron.core.parallel_state")
    if groups is not None and groups.model_parallel_is_initialized():
        groups.destroy_model_parallel()


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


def _set_arithmetic(*, deterministic: bool) -> None:
    """fp32 means fp32: NVIDIA's containers allow TF32 in products, torch in convolutions."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # Asked first: setting what is set already would import torch's compiler, seconds of a start.
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        torch.use_deterministic_algorithms(deterministic)
    # Filling every new tensor would find reads of memory that was never written, at a high price.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _join_process_group(
    ranks: RankInfo, *, device: torch.device, timeout: timedelta, store: Store | None
) -> None:
    on_gpu = device.type == "cuda"
    backend = _BACKEND[DeviceKind.gpu if on_gpu else DeviceKind.cpu]
    # With its device named, NCCL connects now, where a wrong setup is seen at once, and no
    # collective has to guess a device from the rank.
    device_id = device if on_gpu else None
    local = ranks.local_world_size == ranks.world_size
    if not on_gpu and local and ranks.world_size > 1:
        # gloo otherwise binds to the address of the host name, which a laptop may lose mid-run.
        environment.set_default("GLOO_SOCKET_IFNAME", value=_loopback_interface())
    if store is None and ranks.world_size == 1:
        store = meet(ranks, timeout=timeout)
    place = None if store else f"tcp://{ranks.master_addr}:{ranks.master_port}"
    if store is not None:
        store.set_timeout(timeout)
    dist.init_process_group(
        backend,
        init_method=place,
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
        device_id=device_id,
    )
    if not on_gpu:
        gloo.share_device()


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


def page_lock(memory: torch.Tensor) -> Callable[[], None]:
    """Let GPUs read and write this memory of the host by themselves, until what is returned is
    called. Where the driver refuses, copies are slower, no less right."""
    address = memory.data_ptr()
    driver = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(driver.cudaHostRegister(address, memory.nbytes, 0)) != 0:
        return lambda: None

    def unlock() -> None:
        driver.cudaHostUnregister(address)

    return unlock


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


def peak_flops(precision: PrecisionConfig) -> float:
    """FLOP/s this rank's device can do at best, in products of the recipe's own format.

    From the data sheet of a GPU, else measured. Emulated products run in the run's dtype, so a
    CPU's peak is that dtype's.
    """
    known = _own_peak(precision)
    if known is not None:
        return known.flops
    device = torch.device("cuda" if _uses_gpu() else "cpu")
    return _measured_flops(_TORCH_DTYPE[precision.dtype], device=device)


def peak_name(precision: PrecisionConfig) -> str:
    """Which peak ``peak_flops`` is, and so what mfu is a share of."""
    known = _own_peak(precision)
    return known.of if known else f"{precision.dtype.name} products, measured at the start"


def _own_peak(precision: PrecisionConfig) -> Peak | None:
    return known_peak(torch.cuda.get_device_name(), precision=precision) if _uses_gpu() else None


def known_peak(gpu: str, *, precision: PrecisionConfig) -> Peak | None:
    """Peak of the GPU of that name; None if it is not in the table."""
    number_format = _FORMAT.get(precision.recipe, "fp8") or precision.dtype.name
    for name, flops in _PEAK_FLOPS:
        if name.lower() in gpu.lower():
            has = number_format if number_format in flops else precision.dtype.name
            return Peak(flops=flops[has], of=f"dense {has} products, data sheet of {name}")
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
