# SPDX-License-Identifier: Apache-2.0
"""megatron-core under the hook, each case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run_on_ranks import run_on_ranks


def run_python(code: str, **variables: str) -> str:
    """Standard output of ``code`` in a new interpreter, which must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def train_layouts(
    work: Path, layouts: list[dict[str, object]], *, num_ranks: int
) -> list[dict[str, Any]]:
    """Losses of ``layouts``, trained one after another by the same ranks."""
    target = "tests.device.cpu.small_gpt:write_losses"
    run_on_ranks(target, work, world=num_ranks, cases=layouts, timeout_s=300.0)
    curves: list[dict[str, Any]] = json.loads((work / f"losses-{num_ranks}.json").read_text())
    return curves


@pytest.mark.mcore
@pytest.mark.slow
def test_every_layout_trains_to_the_same_losses(tmp_path: Path) -> None:
    cases: list[dict[str, object]] = [{}, {"optimizer": True}, {"bf16": True}, {"experts": 4}]
    alone = train_layouts(tmp_path, cases, num_ranks=1)
    pairs = train_layouts(
        tmp_path,
        [
            {},
            {"optimizer": True},
            {"pp": 2},
            {"pp": 2, "vpp": 2},
            {"tp": 2},
            {"optimizer": True, "bf16": True},
        ],
        num_ranks=2,
    )
    reference = alone[0]["losses"]
    assert reference[-1] < reference[0] - 0.5
    assert alone[3]["losses"][-1] < alone[3]["losses"][0] - 0.5
    for curve in [alone[1], *pairs[:5]]:
        assert curve["losses"] == pytest.approx(reference, rel=1e-6), curve["layout"]
    assert pairs[5]["losses"] == pytest.approx(alone[2]["losses"], rel=1e-5)


@pytest.mark.mcore
def test_torch_stays_as_it_is_and_megatron_core_sees_the_stub() -> None:
    run_python(
        "import torch\n"
        "before = dict(vars(torch.cuda)), torch.Tensor.cuda, torch.nn.Module.cuda, torch.device\n"
        "from megacpt.device.cpu import import_hook\n"
        "import_hook.install()\n"
        "import_hook.install()\n"
        "import sys\n"
        "assert sum(type(f).__name__ == '_CpuFinder' for f in sys.meta_path) == 1\n"
        "from megatron.core.tensor_parallel import random\n"
        "import megatron.core.optimizer\n"
        "assert 'torch._inductor' not in sys.modules, 'seconds of imports'\n"
        "from megacpt.device.cpu import stub\n"
        "assert random._cpu_cuda is stub\n"
        "assert torch.equal(random._get_cuda_rng_state(), torch.get_rng_state())\n"
        "assert (torch.Tensor.cuda, torch.nn.Module.cuda, torch.device) == before[1:]\n"
        "for name, value in before[0].items():\n"
        "    assert getattr(torch.cuda, name) is value, name\n"
    )


@pytest.mark.mcore
def test_the_tracker_draws_and_restores() -> None:
    run_python(
        "import torch, logging\n"
        "from megacpt.device.cpu import import_hook\n"
        "import_hook.install()\n"
        "from megatron.core.tensor_parallel.random import CudaRNGStatesTracker\n"
        "def draw(seed):\n"
        "    tracker = CudaRNGStatesTracker()\n"
        "    tracker.add('model-parallel-rng', seed)\n"
        "    torch.manual_seed(3)\n"
        "    with tracker.fork():\n"
        "        inside = torch.rand(2)\n"
        "    return inside.tolist(), torch.rand(2).tolist()\n"
        "logging.raiseExceptions = True\n"
        "logging.getLogger('megatron').addHandler(logging.StreamHandler(sink := __import__('io')"
        ".StringIO()))\n"
        "assert draw(1) == draw(1)\n"
        "assert draw(1)[0] != draw(2)[0]\n"
        "assert draw(1)[1] == draw(2)[1]\n"
        "assert 'CPU RNG' not in sink.getvalue()\n"
    )


@pytest.mark.mcore
def test_install_after_megatron_core_is_refused() -> None:
    message = run_python(
        "import megatron.core\n"
        "from megacpt.device.cpu import import_hook\n"
        "from megacpt.errors import EnvironmentError_\n"
        "try:\n"
        "    import_hook.install()\n"
        "except EnvironmentError_ as error:\n"
        "    print(error)\n"
    )
    assert message.startswith("megatron.core was imported before megacpt could prepare it for CPUs")
    assert "megacpt.device.cpu.import_hook.install()" in message


@pytest.mark.mcore
def test_a_process_without_the_hook_has_megatron_core_as_published() -> None:
    run_python(
        "import sys, torch\n"
        "from megacpt.device import runtime\n"
        "from megatron.core.tensor_parallel import random\n"
        "assert not hasattr(random, '_cpu_cuda')\n"
        "assert type(random.__spec__.loader).__name__ == 'SourceFileLoader'\n"
        "assert not any('_CpuFinder' in type(f).__name__ for f in sys.meta_path)\n"
        "assert 'megacpt.device.cpu.stub' not in sys.modules\n"
    )


@pytest.mark.mcore
@pytest.mark.slow
def test_import_survives_any_cache(tmp_path: Path) -> None:
    code = (
        "from megacpt.device.cpu import import_hook\n"
        "import_hook.install()\n"
        "import megatron.core.parallel_state as p\n"
        "print(p._cpu_cuda.__name__)\n"
    )
    cache = tmp_path / "cache"
    assert run_python(code, XDG_CACHE_HOME=str(cache)) == "megacpt.device.cpu.stub"
    entries = sorted(cache.rglob("*.code"))
    whole = [entry.read_bytes() for entry in entries]
    assert len(entries) > 20
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-7])
    assert run_python(code, XDG_CACHE_HOME=str(cache)) == "megacpt.device.cpu.stub"
    assert [entry.read_bytes() for entry in entries] == whole, "corrupt entries were not replaced"
    (tmp_path / "file").write_text("")
    unusable = str(tmp_path / "file")
    assert run_python(code, XDG_CACHE_HOME=unusable) == "megacpt.device.cpu.stub"


@pytest.mark.mcore
def test_installed_cuda_packages_are_not_touched_on_a_cpu(tmp_path: Path) -> None:
    """A container made for GPUs has Transformer Engine and Apex; they must not be imported."""
    for package in ("transformer_engine", "apex"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported')\n")
    run_python(
        "from megacpt.device.cpu import import_hook\n"
        "import_hook.install()\n"
        "from megatron.core import optimizer\n"
        "from megatron.core.models.gpt import GPTModel\n"
        "import torch\n"
        "assert optimizer.Adam is torch.optim.AdamW\n",
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )


@pytest.mark.mcore
def test_what_training_does_not_need_is_not_imported_with_it() -> None:
    code = (
        "import sys; import megacpt.device.cpu.import_hook as hook; hook.install(); "
        "import megatron.core; print('wandb' in sys.modules); import wandb; print(wandb.__name__)"
    )
    assert run_python(code).split() == ["False", "wandb"]
