# SPDX-License-Identifier: Apache-2.0
"""What ``start`` decides, and the device questions a trainer asks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from megacpt.config.sections import DeviceKind, Dtype, PrecisionConfig, Recipe
from megacpt.device import environment, runtime
from megacpt.device.environment import RankInfo
from megacpt.device.runtime import Peak
from megacpt.errors import EnvironmentError_


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=inherited | variables,
        capture_output=True,
        text=True,
    )


START = (
    "import sys, torch\n"
    "import torch.distributed as dist\n"
    "from megacpt.config.sections import ClusterConfig, DeviceKind\n"
    "from megacpt.device import runtime\n"
    "from megacpt.device.environment import RankInfo\n"
    "def start(**cluster):\n"
    "    return runtime.start(RankInfo(), cluster=ClusterConfig(**cluster))\n"
)


def test_a_single_rank_has_a_process_group_and_the_hook() -> None:
    done = run_python(
        START + "found = start(device=DeviceKind.cpu, timeout_minutes=1)\n"
        "assert found.kind is DeviceKind.cpu and found.device == torch.device('cpu')\n"
        "total = torch.ones(2)\n"
        "dist.all_reduce(total, group=dist.new_group([0]))\n"
        "assert total.tolist() == [1, 1] and dist.get_backend() == 'gloo'\n"
        "import megatron.core.parallel_state as p\n"
        "p.initialize_model_parallel()\n"
        "assert p._cpu_cuda\n"
        "runtime.stop()\n"
        "runtime.stop()\n"
        "assert not dist.is_initialized()\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_process_is_a_rank_again() -> None:
    code = (
        START + "for _ in range(2):\n"
        "    start(device=DeviceKind.cpu)\n"
        "    from megatron.core import parallel_state\n"
        "    parallel_state.initialize_model_parallel()\n"
        "    runtime.stop()\n"
        "print(parallel_state.model_parallel_is_initialized(), dist.is_initialized())\n"
    )
    result = run_python(code)
    assert result.stdout.splitlines()[-1:] == ["False False"], result.stderr


@pytest.mark.parametrize(
    ("asked", "variables", "expected"),
    [
        (3, {"OMP_NUM_THREADS": "2"}, 3),
        (0, {"OMP_NUM_THREADS": "2"}, 2),
        (0, {}, environment.num_cores()),
    ],
)
def test_threads(asked: int, variables: dict[str, str], expected: int) -> None:
    code = f"start(device=DeviceKind.cpu, threads_per_rank={asked})\nprint(torch.get_num_threads())"
    done = run_python(START + code, **variables)
    assert done.stdout.strip() == str(expected), done.stderr


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    many = RankInfo(world_size=1000, local_world_size=1000)
    assert runtime._num_threads(0, ranks=many) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is there")
def test_a_missing_gpu_is_said_and_installs_no_hook() -> None:
    code = (
        "from megacpt.errors import EnvironmentError_\n"
        "try:\n"
        "    start(device=DeviceKind.gpu)\n"
        "except EnvironmentError_ as error:\n"
        "    print(error)\n"
        "assert not any('_CpuFinder' in type(f).__name__ for f in sys.meta_path)\n"
        "assert 'megacpt.device.cpu.stub' not in sys.modules\n"
    )
    done = run_python(START + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cluster.device=gpu needs a GPU that torch can use")


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto takes the GPU")
def test_auto_is_cpu_without_a_gpu() -> None:
    assert runtime._choose_kind(DeviceKind.auto) is DeviceKind.cpu


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_is_cuda_with_a_gpu_and_installs_no_hook() -> None:
    code = (
        "found = start()\n"
        "assert found.kind is DeviceKind.gpu and found.device == torch.device('cuda', 0)\n"
        "assert not any('_CpuFinder' in type(f).__name__ for f in sys.meta_path)\n"
        "total = torch.ones(2, device=found.device)\n"
        "dist.all_reduce(total)\n"
        "assert total.tolist() == [1, 1] and dist.get_backend() == 'nccl'\n"
        "runtime.stop()\n"
    )
    done = run_python(START + code)
    assert done.returncode == 0, done.stderr


def test_fp32_is_fp32_and_order_is_free_unless_asked() -> None:
    code = (
        "torch.set_float32_matmul_precision('high')\n"
        "start(device=DeviceKind.cpu)\n"
        "assert torch.get_float32_matmul_precision() == 'highest'\n"
        "assert not torch.backends.cudnn.allow_tf32\n"
        "assert not torch.are_deterministic_algorithms_enabled()\n"
        "runtime.stop()\n"
        "cluster = ClusterConfig(device=DeviceKind.cpu)\n"
        "runtime.start(RankInfo(), cluster=cluster, deterministic=True)\n"
        "assert torch.are_deterministic_algorithms_enabled()\n"
    )
    done = run_python(START + code)
    assert done.returncode == 0, done.stderr


def test_more_ranks_than_gpus_is_refused() -> None:
    num_gpus = torch.cuda.device_count()
    ranks = RankInfo(world_size=num_gpus + 2, local_world_size=num_gpus + 2)
    with pytest.raises(EnvironmentError_, match=f"need a GPU each, but {num_gpus} are visible"):
        runtime._own_gpu(ranks)


def test_a_seed_fixes_every_generator() -> None:
    def draw() -> list[float]:
        runtime.seed_all(2**40 + 5)
        return [random.random(), float(np.random.random()), float(torch.rand(()))]

    assert draw() == draw()


def test_generator_states_come_back() -> None:
    runtime.seed_all(1)
    state = runtime.rng_state()
    drawn = torch.rand(4)
    runtime.set_rng_state(state)
    assert torch.equal(torch.rand(4), drawn)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.mcore
def test_tracked_generators_come_back() -> None:
    done = run_python(
        START + "start(device=DeviceKind.cpu)\n"
        "from megatron.core import parallel_state, tensor_parallel\n"
        "parallel_state.initialize_model_parallel()\n"
        "tensor_parallel.model_parallel_cuda_manual_seed(1)\n"
        "def draw():\n"
        "    with tensor_parallel.get_cuda_rng_tracker().fork():\n"
        "        return torch.rand(2).tolist()\n"
        "state = runtime.rng_state()\n"
        "assert 'tracker/model-parallel-rng' in state\n"
        "drawn = [draw(), draw()]\n"
        "runtime.set_rng_state(state)\n"
        "assert [draw(), draw()] == drawn\n"
        "runtime.stop()\n"
    )
    assert done.returncode == 0, done.stderr


def test_peak_memory_is_this_process() -> None:
    held = torch.ones(32 * 2**20)
    assert 32 * 2**22 < runtime.peak_memory_bytes() < 2**40
    del held


@pytest.mark.parametrize("dtype", list(Dtype))
def test_peak_flops_is_a_rate_found_in_half_a_second(dtype: Dtype) -> None:
    precision = PrecisionConfig(dtype=dtype, recipe=Recipe.delayed)
    runtime.peak_flops(precision)
    started_s = time.perf_counter()
    flops = runtime.peak_flops(precision)
    assert time.perf_counter() - started_s < 1.0
    assert 1e8 < flops < 1e16
    if not torch.cuda.is_available():
        expected = f"{dtype.name} products, measured at the start"
        assert runtime.peak_name(precision) == expected


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 1979e12),
        ("NVIDIA H100 PCIe", 756e12, 1513e12),
        ("NVIDIA H100 NVL", 835e12, 1671e12),
        ("NVIDIA H200", 989e12, 1979e12),
        ("NVIDIA H200 NVL", 835e12, 1671e12),
        ("NVIDIA GH200 480GB", 989e12, 1979e12),
        ("NVIDIA GB200", 2500e12, 5000e12),
        ("NVIDIA B200", 2250e12, 4500e12),
        ("NVIDIA L40S", 362e12, 733e12),
        ("NVIDIA L4", 121e12, 242e12),
    ],
)
def test_known_gpus(name: str, bf16: float, fp8: float) -> None:
    plain = runtime.known_peak(name, precision=PrecisionConfig())
    quantised = runtime.known_peak(name, precision=PrecisionConfig(recipe=Recipe.tensorwise))
    assert plain is not None
    assert quantised is not None
    assert (plain.flops, quantised.flops) == (bf16, fp8)
    assert plain.of.startswith("dense bf16 products, data sheet of ")
    assert quantised.of.startswith("dense fp8 products, ")


def test_a_gpu_without_the_format_has_the_peak_of_the_dtype() -> None:
    recipe = PrecisionConfig(recipe=Recipe.delayed)
    assert runtime.known_peak("NVIDIA A100-SXM4-80GB", precision=recipe) == Peak(
        flops=312e12, of="dense bf16 products, data sheet of A100"
    )
    fp4 = runtime.known_peak("NVIDIA B200", precision=PrecisionConfig(recipe=Recipe.nvfp4))
    assert fp4 == Peak(flops=9000e12, of="dense fp4 products, data sheet of B200")
    assert runtime.known_peak("NVIDIA GeForce RTX 3060", precision=recipe) is None


def test_cpu_has_nothing_to_wait_for() -> None:
    runtime.synchronize(torch.device("cpu"))


def test_timeout_reaches_the_process_group() -> None:
    done = run_python(
        "from megacpt.config.sections import ClusterConfig, DeviceKind\n"
        "from megacpt.device import runtime\n"
        "from megacpt.device.environment import RankInfo\n"
        "ranks = RankInfo(rank=1, world_size=2, local_rank=1, local_world_size=2, master_port=9)\n"
        "runtime.start(ranks, cluster=ClusterConfig(device=DeviceKind.cpu, timeout_minutes=0.02))\n"
    )
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr


def test_defaults_keep_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGACPT_TEST_A", "mine")
    monkeypatch.delenv("MEGACPT_TEST_B", raising=False)
    environment.set_default("MEGACPT_TEST_A", value="other")
    environment.set_default("MEGACPT_TEST_B", value="other")
    assert (os.environ.pop("MEGACPT_TEST_B"), os.environ["MEGACPT_TEST_A"]) == ("other", "mine")
