# SPDX-License-Identifier: Apache-2.0
"""What a rank does about its kernels before the model is built, and what it found of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megacpt.config.sections import DeviceKind, RunConfig
from megacpt.device import variables
from megacpt.device.runtime import Runtime, peak_name
from megacpt.families import read_architecture
from megacpt.model.kernels import resolved, start_communication_overlap
from megacpt.monitor.environment import FoundSettings
from megacpt.plan.precision import precision_name
from megacpt.plan.rules.data import longest


def start_overlap(config: RunConfig, *, runtime: Runtime) -> None:
    """Once a process, before the model: its layers look for the buffers."""
    if runtime.device.type == "cpu" or not config.kernels.tp_comm_overlap:
        return
    tokens = longest(config.data) * config.data.micro_batch_size
    start_communication_overlap(
        tokens=tokens // config.parallel.cp,
        hidden_size=read_architecture(Path(str(config.model.path))).hidden_size,
        parallel=config.parallel,
        precision=config.precision,
    )


def found_settings(config: RunConfig, *, transformer: Any, runtime: Runtime) -> FoundSettings:
    """For environment.json: how this rank runs."""
    known = variables.record(config, kind=runtime.kind)
    return {
        "kernels": resolved(transformer),
        "variables": {n: {"value": v.value, "set_by": v.set_by} for n, v in known.items()},
        "mfu_of": peak_name(config.precision),
        "arithmetic": arithmetic(config, runtime=runtime),
    }


def arithmetic(config: RunConfig, *, runtime: Runtime) -> str:
    """The precision in words; without a GPU its recipe is an emulation, and is called one."""
    return precision_name(config.precision, emulated=runtime.kind is not DeviceKind.gpu)
