# SPDX-License-Identifier: Apache-2.0
"""Environment variables of the libraries a rank runs on: what is set, when and why.

A library reads them once, as it starts, so they are there before torch is imported: the launcher
hands them to the ranks it starts, and a rank of torchrun or srun gives them to itself. What the
user's environment has is never replaced. No torch here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from megacpt.config.sections import (
    ClusterConfig,
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    VariableConfig,
)
from megacpt.device.environment import AT_START, likely_kind
from megacpt.errors import EnvironmentError_

MARK = "MEGACPT_VARIABLES"
"""Names of the variables that megacpt has set, so that they are not taken for the user's."""
MEGACPT, CONFIG, ENVIRONMENT = "megacpt", "kernels.environment", "environment"
LIBRARY = "library"
_BRIDGE = "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/"
_RECIPES = f"{_BRIDGE}src/megatron/bridge/perf_recipes/llama/h100/llama3.py"
_GUIDE = f"{_BRIDGE}docs/performance-guide.md"
_MEGATRON = "https://github.com/NVIDIA/Megatron-LM/blob/main/"
_DETERMINISM = f"{_MEGATRON}docs/user-guide/deterministic-training.md"
_OF_LIBRARIES = re.compile(
    "((TORCH_)?NCCL|NVTE|UB|UCX|GLOO|OMP|MKL|KMP|CUBLAS|CUDA_(DEVICE|VISIBLE|LAUNCH))_"
    "|PYTORCH_([A-Z]+_)?ALLOC_CONF|[A-Z_]*TF32"
)


class RunSections(Protocol):
    """The sections of a run's configuration that decide its variables."""

    parallel: ParallelConfig
    precision: PrecisionConfig
    kernels: KernelsConfig
    cluster: ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One row: set to ``value`` on ``kind`` where ``applies`` says so."""

    name: str
    value: str
    kind: DeviceKind = DeviceKind.gpu
    when: str
    applies: Callable[[RunSections], bool]
    reason: str
    source: str
    also: tuple[str, ...] = ()
    """Other names of the same thing: where the user has set one, this stays unset."""
    accepted: tuple[str, ...] = ()
    """A user's value other than these is an error; empty: any will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVariable:
    """A variable as the ranks have it. ``set_by``: megacpt, kernels.environment, environment (the
    user), or library (such as megatron-core, as it chose its attention)."""

    value: str
    set_by: str


def _orders_kernels(config: RunSections) -> bool:
    """Sharded weights want many queues, more than communication inside a layer wants one."""
    parallel = config.parallel
    return (parallel.tp > 1 or parallel.cp > 1) and not parallel.sharded_weights


def _many_ranks(config: RunSections) -> bool:
    return config.parallel.num_ranks > 1


def _overlaps_replicas(config: RunSections) -> bool:
    p = config.parallel
    overlaps = p.overlap_grad_reduce or p.overlap_param_gather or p.sharded_weights
    return overlaps and p.dp * p.cp > 1


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="CUDA_DEVICE_MAX_CONNECTIONS",
        value="1",
        when="tp or cp above 1, without sharded_weights",
        applies=_orders_kernels,
        reason="one hardware queue starts kernels in the order given, so the communication inside "
        "a layer begins before the product beside it has filled the GPU",
        source=f"{_MEGATRON}megatron/training/arguments.py",
    ),
    Variable(
        name="CUDA_DEVICE_MAX_CONNECTIONS",
        value="32",
        when="every other layout",
        applies=lambda config: not _orders_kernels(config),
        reason="communication between replicas gets queues of its own and waits behind no product",
        source=_RECIPES,
    ),
    Variable(
        name="NCCL_NVLS_ENABLE",
        value="0",
        when="more than one rank",
        applies=_many_ranks,
        reason="reduction inside the NVLink switch keeps GPU memory for every communicator, and "
        "pays only with registered buffers, which are not used",
        source=_GUIDE,
    ),
    Variable(
        name="TORCH_NCCL_HIGH_PRIORITY",
        value="1",
        when="more than one rank",
        applies=_many_ranks,
        reason="communication kernels get the next free part of the GPU before products do",
        source=f"{_BRIDGE}src/megatron/bridge/perf_recipes/environment.py",
    ),
    Variable(
        name="NCCL_P2P_NET_CHUNKSIZE",
        value="2097152",
        when="pp above 1",
        applies=lambda config: config.parallel.pp > 1,
        reason="activations cross between nodes in pieces of 2 MiB, not of 128 KiB",
        source=_RECIPES,
    ),
    *(
        Variable(
            name=f"NVTE_{way}_LAYERNORM_SM_MARGIN",
            value="20",
            when="communication between replicas overlaps",
            applies=_overlaps_replicas,
            reason="Transformer Engine's norms wait for all multiprocessors at once; these are "
            "left to the communication that runs beside them",
            source=_GUIDE,
        )
        for way in ("FWD", "BWD")
    ),
    Variable(
        name="PYTORCH_CUDA_ALLOC_CONF",
        value="expandable_segments:True",
        when="always",
        applies=lambda config: True,
        reason="memory that was cut for other shapes is joined again, which matters where stages "
        "change the sequence length; torch and megatron-core both know this name",
        source=_RECIPES,
        also=("PYTORCH_ALLOC_CONF",),
    ),
    Variable(
        name="NVIDIA_TF32_OVERRIDE",
        value="0",
        when="precision.dtype=fp32",
        applies=lambda config: config.precision.dtype is Dtype.fp32,
        reason="Transformer Engine multiplies fp32 matrices in TF32, with 10 bits of mantissa, "
        "whatever torch is told",
        source="https://github.com/NVIDIA/TransformerEngine/blob/main/"
        "transformer_engine/common/gemm/cublaslt_gemm.cu",
    ),
    Variable(
        name="NVTE_ALLOW_NONDETERMINISTIC_ALGO",
        value="0",
        when="kernels.deterministic",
        applies=lambda config: config.kernels.deterministic,
        reason="Transformer Engine takes only attention whose sums have a fixed order",
        source=_DETERMINISM,
        accepted=("0",),
    ),
    Variable(
        name="CUBLAS_WORKSPACE_CONFIG",
        value=":4096:8",
        when="kernels.deterministic",
        applies=lambda config: config.kernels.deterministic,
        reason="cuBLAS keeps one workspace a stream; torch's deterministic mode asks for it",
        source=_DETERMINISM,
        accepted=(":4096:8", ":16:8"),
    ),
    Variable(
        name="NCCL_ALGO",
        value="Ring",
        when="kernels.deterministic and more than one rank",
        applies=lambda config: config.kernels.deterministic and _many_ranks(config),
        reason="the order in which a ring adds is fixed; that of a tree is not",
        source=_DETERMINISM,
        accepted=("Ring", "CollnetDirect", "CollnetChain"),
    ),
    Variable(
        name="OMP_WAIT_POLICY",
        value="passive",
        kind=DeviceKind.cpu,
        when="always",
        applies=lambda config: True,
        reason="a thread that spins at the end of a parallel loop takes the core the last one "
        "needs: 4 to 8 times slower beside one busy process, on two cores",
        source="https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html",
    ),
)


def defaults(config: RunSections, *, kind: DeviceKind) -> dict[str, Variable]:
    """What megacpt sets for this run on this kind of device."""
    return {v.name: v for v in VARIABLES if v.kind is kind and v.applies(config)}


def resolve(
    config: RunSections, *, kind: DeviceKind, environment: Mapping[str, str]
) -> dict[str, SetVariable]:
    """What the ranks run with; EnvironmentError_ where the user's value breaks a promise."""
    own, asked = defaults(config, kind=kind), config.kernels.environment
    ours = environment.get(MARK, "").split()
    _refuse_broken_promises(own.values(), asked=asked, environment=environment)
    found = {}
    for name in [*own, *(name for name in asked if name not in own)]:
        names = (name, *(own[name].also if name in own else ()))
        theirs = next((n for n in names if n in environment and n not in ours), None)
        if theirs is not None:
            found[theirs] = SetVariable(value=environment[theirs], set_by=ENVIRONMENT)
        elif name in asked:
            found[name] = SetVariable(value=asked[name].value, set_by=CONFIG)
        elif not any(n in asked for n in names):
            found[name] = SetVariable(value=own[name].value, set_by=MEGACPT)
    return found


def _refuse_broken_promises(
    own: Iterable[Variable], *, asked: Mapping[str, VariableConfig], environment: Mapping[str, str]
) -> None:
    for variable in own:
        value = environment.get(variable.name)
        if value is None and variable.name in asked:
            value = asked[variable.name].value
        if variable.accepted and value is not None and value not in variable.accepted:
            raise EnvironmentError_(
                f"{variable.name}={value} cannot be had with {variable.when}; unset it, or use "
                f"{' or '.join(variable.accepted)}."
            )


def missing_variables(
    config: RunSections, *, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a rank lacks, for the launcher to give it; torch need not know the device yet."""
    known = os.environ if environment is None else environment
    kind = likely_kind(config.cluster.device)
    settings = resolve(config, kind=kind, environment=known)
    ours = {n: setting.value for n, setting in settings.items() if setting.set_by != ENVIRONMENT}
    return {**ours, MARK: " ".join(ours)}


def apply(config: RunSections) -> None:
    """Set them in a rank that no megacpt has started, before torch is imported."""
    os.environ.update(missing_variables(config))


def record(config: RunSections, *, kind: DeviceKind) -> dict[str, SetVariable]:
    """What this process really has: the settings, and what else its libraries look at."""
    settings = resolve(config, kind=kind, environment=os.environ)
    there = {n: setting for n, setting in settings.items() if os.environ.get(n) == setting.value}
    others = {
        name: SetVariable(value=value, set_by=_setter(name))
        for name, value in sorted(os.environ.items())
        if _OF_LIBRARIES.match(name) and name not in there
    }
    return there | others


def _setter(name: str) -> str:
    if name in os.environ.get(MARK, "").split():
        return MEGACPT
    return ENVIRONMENT if name in AT_START else LIBRARY


def notes(config: RunSections) -> list[str]:
    """The settings as lines for run.yaml."""
    kind = likely_kind(config.cluster.device)
    settings = resolve(config, kind=kind, environment=os.environ)
    return [
        f"Environment of the ranks on this machine ({kind.name}), and who has set it:",
        *(
            f"  {name}={_one_line(setting.value)}  ({setting.set_by})"
            for name, setting in settings.items()
        ),
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
