# SPDX-License-Identifier: Apache-2.0
"""Which variables the ranks get, and whose word counts."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from megacpt.config.sections import (
    ClusterConfig,
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
    RunConfig,
    VariableConfig,
)
from megacpt.device.environment import gpu_files, likely_kind
from megacpt.device.variables import (
    MARK,
    VARIABLES,
    SetVariable,
    defaults,
    missing_variables,
    resolve,
)
from megacpt.errors import EnvironmentError_

GPU, CPU = DeviceKind.gpu, DeviceKind.cpu


def values(config: RunConfig, kind: DeviceKind = GPU) -> dict[str, str]:
    return {name: variable.value for name, variable in defaults(config, kind=kind).items()}


def layout(**parallel: object) -> RunConfig:
    return RunConfig(parallel=ParallelConfig(**parallel))  # type: ignore[arg-type]


def on_gpu(**kernels: object) -> RunConfig:
    return RunConfig(
        cluster=ClusterConfig(device=GPU),
        kernels=KernelsConfig(**kernels),  # type: ignore[arg-type]
    )


def test_one_gpu_needs_two() -> None:
    assert values(RunConfig()) == {
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


@pytest.mark.parametrize(
    ("parallel", "queues"),
    [
        ({"tp": 2}, "1"),
        ({"cp": 2}, "1"),
        ({"tp": 2, "dp": 2, "sharded_weights": True}, "32"),
        ({"dp": 8}, "32"),
        ({"pp": 4, "vpp": 2}, "32"),
    ],
)
def test_hardware_queues(parallel: dict[str, object], queues: str) -> None:
    assert values(layout(**parallel))["CUDA_DEVICE_MAX_CONNECTIONS"] == queues


@pytest.mark.parametrize(
    ("parallel", "has_margin"),
    [
        ({"dp": 2, "overlap_grad_reduce": True}, True),
        ({"cp": 2, "overlap_grad_reduce": True}, True),
        ({"dp": 2, "sharded_weights": True}, True),
        ({"dp": 1, "overlap_grad_reduce": True}, False),
        ({"dp": 2}, False),
    ],
)
def test_norms_leave_room_where_replicas_overlap(
    parallel: dict[str, object], has_margin: bool
) -> None:
    margins = {name for name in values(layout(**parallel)) if name.endswith("_SM_MARGIN")}
    both = {"NVTE_FWD_LAYERNORM_SM_MARGIN", "NVTE_BWD_LAYERNORM_SM_MARGIN"}
    assert margins == (both if has_margin else set())


def test_the_network_is_told_only_where_there_is_one() -> None:
    assert "NCCL_P2P_NET_CHUNKSIZE" in values(layout(pp=2))
    assert "NCCL_P2P_NET_CHUNKSIZE" not in values(layout(dp=2))
    many = {"NCCL_NVLS_ENABLE", "TORCH_NCCL_HIGH_PRIORITY"}
    assert many <= values(layout(dp=2)).keys()
    assert not many & values(layout()).keys()


def test_fp32_is_not_tf32() -> None:
    fp32 = RunConfig(precision=PrecisionConfig(dtype=Dtype.fp32))
    assert values(fp32)["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "NVIDIA_TF32_OVERRIDE" not in values(RunConfig())


def test_a_deterministic_run_fixes_the_order_of_sums() -> None:
    config = on_gpu(deterministic=True)
    alone = values(config)
    assert alone["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"
    assert alone["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "NCCL_ALGO" not in alone
    config.parallel = ParallelConfig(dp=2)
    assert values(config)["NCCL_ALGO"] == "Ring"


def test_a_cpu_gets_none_of_a_gpus() -> None:
    config = layout(tp=2, pp=2, dp=2, overlap_grad_reduce=True)
    config.kernels.deterministic = True
    assert values(config, CPU) == {"OMP_WAIT_POLICY": "passive"}


def test_rows_of_one_name_exclude_each_other() -> None:
    """Else the later one would silently win."""
    for config in (RunConfig(), layout(tp=2), layout(tp=2, sharded_weights=True)):
        for kind in (GPU, CPU):
            names = Counter(v.name for v in VARIABLES if v.kind is kind and v.applies(config))
            assert set(names.values()) == {1}


def test_the_users_environment_wins_and_is_shown_as_theirs() -> None:
    config = on_gpu(environment={"NCCL_DEBUG": VariableConfig(value="WARN")})
    found = resolve(config, kind=GPU, environment={"CUDA_DEVICE_MAX_CONNECTIONS": "8"})
    assert found == {
        "CUDA_DEVICE_MAX_CONNECTIONS": SetVariable(value="8", set_by="environment"),
        "PYTORCH_CUDA_ALLOC_CONF": SetVariable(value="expandable_segments:True", set_by="megacpt"),
        "NCCL_DEBUG": SetVariable(value="WARN", set_by="kernels.environment"),
    }


def test_the_configuration_wins_over_a_default() -> None:
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    config = on_gpu(environment={name: VariableConfig(value="4")})
    assert resolve(config, kind=GPU, environment={})[name] == SetVariable(
        value="4", set_by="kernels.environment"
    )
    assert resolve(config, kind=GPU, environment={name: "2"})[name].value == "2"


@pytest.mark.parametrize("theirs", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_either_name_of_the_allocator_is_the_users(theirs: str) -> None:
    found = resolve(on_gpu(), kind=GPU, environment={theirs: "max_split_size_mb:64"})
    allocator = {name: setting for name, setting in found.items() if "ALLOC" in name}
    assert allocator == {theirs: SetVariable(value="max_split_size_mb:64", set_by="environment")}
    named = on_gpu(environment={theirs: VariableConfig(value="x")})
    assert [n for n in resolve(named, kind=GPU, environment={}) if "ALLOC" in n] == [theirs]


def test_what_a_launcher_has_set_is_still_megacpts_in_the_rank() -> None:
    config = on_gpu(environment={"NCCL_DEBUG": VariableConfig(value="WARN")})
    user = {"TORCH_NCCL_HIGH_PRIORITY": "0", "HOME": "/root"}
    config.parallel = ParallelConfig(dp=2)
    given = missing_variables(config, environment=user)
    assert "TORCH_NCCL_HIGH_PRIORITY" not in given
    in_rank = resolve(config, kind=GPU, environment={**user, **given})
    assert in_rank == resolve(config, kind=GPU, environment=user)
    assert missing_variables(config, environment={**user, **given}) == given
    assert set(given[MARK].split()) == given.keys() - {MARK}


@pytest.mark.parametrize(
    ("name", "value", "rest"),
    [
        ("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1", "unset it, or use 0."),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", "unset it, or use :4096:8 or :16:8."),
    ],
)
def test_a_value_that_breaks_determinism_is_refused(name: str, value: str, rest: str) -> None:
    message = f"{name}={value} cannot be had with kernels.deterministic; {rest}"
    with pytest.raises(EnvironmentError_) as error:
        resolve(on_gpu(deterministic=True), kind=GPU, environment={name: value})
    assert str(error.value) == message
    config = on_gpu(deterministic=True, environment={name: VariableConfig(value=value)})
    with pytest.raises(EnvironmentError_, match="cannot be had"):
        resolve(config, kind=GPU, environment={})
    assert resolve(on_gpu(), kind=GPU, environment={name: value})


def test_a_rank_sets_them_before_torch_is_there() -> None:
    """As cli does under torchrun and srun: neither module loads torch."""
    code = (
        "import os, sys\n"
        "from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig\n"
        "from megacpt.device import variables\n"
        "config = RunConfig(cluster=ClusterConfig(device=DeviceKind.gpu))\n"
        "variables.apply(config)\n"
        "assert 'torch' not in sys.modules\n"
        "assert os.environ['CUDA_DEVICE_MAX_CONNECTIONS'] == '32'\n"
        "assert os.environ['PYTORCH_CUDA_ALLOC_CONF'] == 'mine'\n"
        "os.environ['NVTE_FLASH_ATTN'] = '1'\n"
        "found = variables.record(config, kind=DeviceKind.gpu)\n"
        "assert found['NVTE_FLASH_ATTN'].set_by == 'library'\n"
        "assert found['NCCL_SOCKET_IFNAME'].value == 'ib0'\n"
        "assert found['PYTORCH_CUDA_ALLOC_CONF'].set_by == 'environment'\n"
        "assert found['CUDA_DEVICE_MAX_CONNECTIONS'].set_by == 'megacpt'\n"
        "assert 'HOME' not in found and 'AWS_SECRET_ACCESS_KEY' not in found\n"
        "assert variables.notes(config) == [\n"
        "    'Environment of the ranks on this machine (gpu), and who has set it:',\n"
        "    '  CUDA_DEVICE_MAX_CONNECTIONS=32  (megacpt)',\n"
        "    '  PYTORCH_CUDA_ALLOC_CONF=mine  (environment)']\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": "/root",
        "AWS_SECRET_ACCESS_KEY": "x",
        "NCCL_SOCKET_IFNAME": "ib0",
        "PYTORCH_CUDA_ALLOC_CONF": "mine",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_gpus_are_seen_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_files(tmp_path) == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / name).touch()
    assert [path.name for path in gpu_files(tmp_path)] == ["nvidia0", "nvidia1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert likely_kind(DeviceKind.auto) is CPU
    assert likely_kind(GPU) is GPU
