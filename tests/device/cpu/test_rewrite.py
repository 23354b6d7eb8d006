# SPDX-License-Identifier: Apache-2.0
"""What the rewriting changes, what it leaves, and that no CUDA is left in megatron-core."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacpt.device.cpu.rewrite import compile_for_cpu, rewrite

STUB = "import megacpt.device.cpu.stub as _cpu_cuda"


def rewritten(source: str, *, module: str = "megatron.core.some") -> str:
    return ast.unparse(rewrite(ast.parse(source), module=module))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.cuda.synchronize()", f"{STUB}\n_cpu_cuda.synchronize()"),
        ("x: torch.cuda.Stream = None", f"{STUB}\nx: _cpu_cuda.Stream = None"),
        ("torch.zeros(1, device='cuda')", "torch.zeros(1, device='cpu')"),
        ("Pool(device='cuda:0')", "Pool(device='cpu')"),
        ("x.cuda(non_blocking=True)", "x.cpu()"),
        ("torch.tensor(x, pin_memory=True).cuda()", "torch.tensor(x).cpu()"),
        ("x[0].float().cuda().sum()", "x[0].float().cpu().sum()"),
        ("torch.device('cuda', index)", "torch.device('cpu')"),
        (
            "torch.device('cuda', torch.cuda.current_device())",
            f"{STUB}\ntorch.device('cpu')",
        ),
        ("torch.device(f'cuda:{torch.cuda.current_device()}')", "torch.device('cpu')"),
        ("p.type() == 'torch.cuda.FloatTensor'", "p.type() == 'torch.FloatTensor'"),
        (
            "p.type() in ['torch.cuda.HalfTensor', 'torch.cuda.BFloat16Tensor']",
            "p.type() in ['torch.HalfTensor', 'torch.BFloat16Tensor']",
        ),
        (
            "from torch.cuda import _lazy_call, device as context",
            "from megacpt.device.cpu.stub import _lazy_call, device as context",
        ),
        ("import torch.cuda as c", "import megacpt.device.cpu.stub as c"),
        ("@torch.compile\ndef f():\n    pass", "def f():\n    pass"),
        ("@torch.compile(dynamic=True)\n@cache\ndef f():\n    pass", "@cache\ndef f():\n    pass"),
    ],
)
def test_names_of_cuda_become_names_of_the_cpu(source: str, expected: str) -> None:
    assert rewritten(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "x.is_cuda",
        "config.cuda_graph_impl == 'local'",
        "f'cuda graph of {name}'",
        "raise ValueError('tensors must be on cuda')",
        "match kind:\n    case 'cuda':\n        pass",
        "from torch.cuda.amp import custom_fwd",
        "from .apex import local",
        "import apexpredator",
    ],
)
def test_everything_else_stays(source: str) -> None:
    assert rewritten(source) == ast.unparse(ast.parse(source))


def test_code_goes_after_docstring_and_future_imports() -> None:
    source = '"""Doc."""\nfrom __future__ import annotations\ntorch.cuda.Stream()'
    assert rewritten(source).splitlines()[2] == STUB


def test_a_module_of_nothing_but_a_docstring_stays() -> None:
    assert rewritten('"""Doc."""') == '"""Doc."""'


def test_generator_functions_use_the_cpu_generator() -> None:
    source = "def _set_cuda_rng_state(new_state, device=-1, graph_safe=False):\n    _C._cuda(1)"
    assert rewritten(source).splitlines()[-1].strip() == "_cpu_cuda.set_rng_state(new_state)"


def test_sizes_of_an_all_to_all_become_an_array_without_a_copy_from_a_gpu() -> None:
    source = "def maybe_move_tensor_to_cpu(tensor, as_numpy=False, record_stream=False):\n    pass"
    scope: dict[str, Any] = {"torch": torch}
    exec(compile_for_cpu(source.encode(), path="p.py", module="megatron.core.some"), scope)
    move, sizes = scope["maybe_move_tensor_to_cpu"], torch.tensor([3, 4])
    assert move(sizes, as_numpy=True).tolist() == [3, 4]
    assert isinstance(move(sizes, as_numpy=True), np.ndarray)
    assert move(sizes) is sizes
    assert move(None, as_numpy=True) is None


def test_fork_does_not_warn_that_its_own_generator_moved() -> None:
    source = "if changed:\n    log().warning('CPU RNG state changed within GPU RNG context')"
    assert rewritten(source) == "pass"


@pytest.mark.parametrize(
    "statement", ["import apex.x as a", "from transformer_engine.a import b", "import wandb"]
)
def test_what_is_left_out_looks_missing(statement: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="is not used on a CPU"):
        exec(rewritten(statement))


def test_router_knows_that_transformer_engine_is_missing() -> None:
    module = "megatron.core.transformer.moe.moe_utils"
    assert rewritten("x = 1", module=module) == "te_general_gemm = None\nx = 1"


def test_line_numbers_of_tracebacks_stay() -> None:
    code = compile_for_cpu(
        b"import torch\n\n\ntorch.cuda.current_device()\n1 / 0\n", path="a.py", module="m"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        exec(code)
    assert caught.traceback[-1].lineno + 1 == 5


@pytest.mark.mcore
@pytest.mark.slow
def test_no_cuda_is_left_in_any_file_of_megatron_core() -> None:
    spec = importlib.util.find_spec("megatron")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    files = sorted(Path(next(iter(spec.submodule_search_locations)), "core").rglob("*.py"))
    assert len(files) > 300
    for path in files:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = rewrite(ast.parse(path.read_bytes()), module="megatron.core.some")
        compile(tree, str(path), "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "cuda":
                assert ast.unparse(node) not in ("torch.cuda", "x.cuda"), f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                assert node.value.value != "cuda", f"{path}:{node.value.lineno}"
