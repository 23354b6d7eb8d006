# SPDX-License-Identifier: Apache-2.0
"""The source of a module of megatron-core or its optimizers, compiled to run on a CPU.

megatron-core names CUDA in some three hundred places. All of them follow a few patterns, so they
are changed in the syntax tree, where a pattern is exact and line numbers stay what they were:

    torch.cuda.f(...)                   -> _cpu_cuda.f(...)        (megacpt/device/cpu/stub.py)
    from torch.cuda import name         -> from megacpt.device.cpu.stub import name
    "cuda", "cuda:0", f"cuda:{index}"   -> "cpu"
    "torch.cuda.FloatTensor"            -> "torch.FloatTensor"     (compared with tensor.type())
    torch.device("cuda", index)         -> torch.device("cpu")
    x.cuda(...)                         -> x.cpu()
    f(..., pin_memory=True)             -> f(...)
    import transformer_engine, apex     -> raise ModuleNotFoundError: their kernels need CUDA
    import wandb                        -> the same: a fifth of what a rank imports, for inference
    @torch.compile                      -> nothing: it wants a C++ compiler at run time, and
                                           seconds of imports before it is ever called

plus a few functions by name, in ``_BODIES`` and ``_GLOBALS``, each with its reason.
"""

from __future__ import annotations

import ast
import warnings
from types import CodeType

_STUB_MODULE = "megacpt.device.cpu.stub"
_STUB_NAME = "_cpu_cuda"
_LEFT_OUT = {"transformer_engine", "transformer_engine_torch", "apex", "wandb"}

# Function name -> body on a CPU.
_BODIES = {
    # They reach for torch._C._cuda_setRNGState and torch.cuda.default_generators.
    "_get_cuda_rng_state": f"return {_STUB_NAME}.get_rng_state()",
    "_set_cuda_rng_state": f"{_STUB_NAME}.set_rng_state(new_state)",
    # torch.compile wants a C++ compiler at run time and minutes for what saves nothing here.
    "enable_jit_fuser": "disable_jit_fuser()",
    # It makes the sizes of an all-to-all arrays only where they come from a GPU, then wants arrays.
    "maybe_move_tensor_to_cpu": (
        "return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor"
    ),
    # It compares the version of what is not there.
    "is_te_min_version": "return False",
    # The optimizer that updates in host memory tells its two sides by the devices of tensors.
    "_get_sub_optimizer_param_groups": f"return {_STUB_NAME}.host_parameter_groups(self)",
}
# Module -> names its except-branch forgets to define when Transformer Engine is missing.
_GLOBALS = {"megatron.core.transformer.moe.moe_utils": "te_general_gemm = None"}
# The tracker warns when the CPU generator moves inside its fork; here it is the device's own.
_POINTLESS_WARNING = "CPU RNG state changed within GPU RNG context"


def compile_for_cpu(source: bytes, *, path: str, module: str, optimize: int = -1) -> CodeType:
    """Code object of ``source`` with every use of CUDA replaced."""
    with warnings.catch_warnings():
        # pip has compiled these files before; their bad escapes are not the user's to fix.
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = rewrite(ast.parse(source, path), module=module)
        return compile(tree, path, "exec", dont_inherit=True, optimize=optimize)


def rewrite(tree: ast.Module, *, module: str) -> ast.Module:
    """``tree`` (changed in place) for a CPU; lines keep their numbers."""
    rewriter = _CudaToCpu()
    tree = rewriter.visit(tree)
    preamble = _GLOBALS.get(module, "")
    if rewriter.uses_stub:
        preamble += f"\nimport {_STUB_MODULE} as {_STUB_NAME}"
    index = _first_statement(tree)
    tree.body[index:index] = ast.parse(preamble).body
    return ast.fix_missing_locations(tree)


def _first_statement(tree: ast.Module) -> int:
    """Index at which code may be inserted: after the docstring and ``__future__`` imports."""
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and _is_string(node.value)
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not docstring and not future:
            return index
    return len(tree.body)


class _CudaToCpu(ast.NodeTransformer):
    """The table of the module docstring; ``uses_stub`` is set once the stub is named."""

    def __init__(self) -> None:
        self.uses_stub = False

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if not (_is_name(node.value, name="torch") and node.attr == "cuda"):
            return node
        self.uses_stub = True
        return ast.copy_location(ast.Name(_STUB_NAME, ast.Load()), node)

    def visit_Call(self, node: ast.Call) -> ast.Call:
        makes_device = _is_attribute(node.func, value="torch", attribute="device")
        self.generic_visit(node)
        node.keywords = [k for k in node.keywords if not _pins_memory(k)]
        if makes_device and node.args and _is_constant(node.args[0], value="cpu"):
            node.args, node.keywords = node.args[:1], []
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            node.func.attr, node.args, node.keywords = "cpu", [], []
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            node.value = _cpu_string(node.value)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and first.value == "cuda:":
            return ast.copy_location(ast.Constant("cpu"), node)
        # Constants inside an f-string are its text; only the expressions are code.
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.generic_visit(part)
        return node

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.MatchValue:
        """``case "cuda":`` stays: next to it there may be a ``case "cpu":``."""
        return node

    def visit_If(self, node: ast.If) -> ast.stmt:
        if len(node.body) == 1 and _warns_pointlessly(node.body[0]):
            return ast.copy_location(ast.Pass(), node)
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        self.generic_visit(node)
        node.decorator_list = [d for d in node.decorator_list if not _compiles(d)]
        if node.name in _BODIES:
            node.body = ast.parse(_BODIES[node.name]).body
            self.uses_stub |= _STUB_NAME in _BODIES[node.name]
        return node

    def visit_Import(self, node: ast.Import) -> ast.stmt:
        for alias in node.names:
            if _is_left_out(alias.name):
                return _absent(alias.name, node=node)
            if alias.name == "torch.cuda" and alias.asname:
                alias.name = _STUB_MODULE
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.level == 0 and _is_left_out(node.module or ""):
            return _absent(node.module or "", node=node)
        if node.level == 0 and node.module == "torch.cuda":
            node.module = _STUB_MODULE
        return node


def _cpu_string(value: str) -> str:
    if value in ("cuda", "cuda:0"):
        return "cpu"
    if value.startswith("torch.cuda.") and value.rstrip(", ").endswith("Tensor"):
        return "torch." + value.removeprefix("torch.cuda.")
    return value


def _is_name(node: ast.expr, *, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_attribute(node: ast.expr, *, value: str, attribute: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == attribute
        and _is_name(node.value, name=value)
    )


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_constant(node: ast.AST, *, value: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == value


def _compiles(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return _is_attribute(called, value="torch", attribute="compile")


def _pins_memory(keyword: ast.keyword) -> bool:
    """Page-locked memory serves copies to a GPU, and without one torch refuses it."""
    value = keyword.value
    return keyword.arg == "pin_memory" and isinstance(value, ast.Constant) and value.value is True


def _warns_pointlessly(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and any(_is_constant(argument, value=_POINTLESS_WARNING) for argument in node.value.args)
    )


def _is_left_out(module: str) -> bool:
    return module.split(".")[0] in _LEFT_OUT


def _absent(module: str, *, node: ast.stmt) -> ast.stmt:
    """What an import of a missing package does; megatron-core is ready for it."""
    raised = ast.parse(f'raise ModuleNotFoundError("{module} is not used on a CPU")').body[0]
    return ast.copy_location(raised, node)
