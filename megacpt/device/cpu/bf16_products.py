# SPDX-License-Identifier: Apache-2.0
"""Products of bf16 matrices on a CPU for which torch has no kernel of them: in fp32, rounded once.

oneDNN multiplies bf16 on CPUs with AVX-512. Elsewhere, as on most laptops, torch falls back to
plain loops, which take 40 times as long as its product in fp32 (``tools/bench/bf16_products.py``).
Here both operands are widened, which loses nothing, multiplied by the fp32 kernel, and the result
is rounded: sums are kept in fp32, as AMX and Tensor Cores do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

_NEW = ("mm", "bmm", "addmm", "baddbmm")
_IN_PLACE = ("addmm", "baddbmm")
_CPU = "CPU"


def has_own() -> bool:
    """Whether torch has a kernel for them on this CPU, as far as is known: a torch that was built
    without oneDNN, such as for Apple's, does not say, and is left alone."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def install() -> None:
    """For this process, where it is needed and torch can be told so: from 2.9 on. Each product of
    fp32 then takes some 10 microseconds more."""
    if not has_own() and hasattr(torch.library, "get_kernel"):
        _kept()


@cache
def _kept() -> torch.library.Library:
    """What a library has registered ends with it."""
    return registered()


def registered() -> torch.library.Library:
    """With a new tensor as the result, with one that is given, and in place."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for name in _NEW:
        wide = partial(_wide, torch.library.get_kernel(f"aten::{name}", _CPU))
        _register(library, name=name, product=partial(_new, wide))
        _register(library, name=f"{name}.out", product=partial(_given, wide))
        if name in _IN_PLACE:
            _register(library, name=f"{name}_", product=partial(_in_place, wide))
    return library


def _register(library: torch.library.Library, *, name: str, product: Callable[..., Any]) -> None:
    own = torch.library.get_kernel(f"aten::{name}", _CPU)

    def either(keys: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [arg for arg in (*args, kwargs.get("out")) if isinstance(arg, torch.Tensor)]
        if all(tensor.dtype is torch.bfloat16 for tensor in tensors):
            return product(keys, *args, **kwargs)
        # Of fp32; or of types that do not go together, which torch refuses.
        return own.call_boxed(keys, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        library.impl(name, either, _CPU, with_keyset=True)  # type: ignore[no-untyped-call]


def _wide(kernel: Any, keys: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    widened = (arg.float() if isinstance(arg, torch.Tensor) else arg for arg in args)
    product: torch.Tensor = kernel.call_boxed(keys, *widened, **kwargs)
    return product


def _new(wide: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    return wide(*args, **kwargs).to(torch.bfloat16)


def _given(
    wide: Callable[..., torch.Tensor], *args: Any, out: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    made = wide(*args, **kwargs)
    if out.shape != made.shape:
        out.resize_(made.shape)
    return out.copy_(made)


def _in_place(
    wide: Callable[..., torch.Tensor], keys: Any, own: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    return own.copy_(wide(keys, own, *args, **kwargs))
