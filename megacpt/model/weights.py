# SPDX-License-Identifier: Apache-2.0
"""Fill this rank's parameters from a Hugging Face folder or at random.

Both walk the same placed rows: a view of the native parameter on one side, a slice of a
Hugging Face tensor on the other.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from megatron.core.fp8_utils import is_float8tensor

from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.stored.places import table_name
from megacpt.families.weights import HfTensor, Param, Role
from megacpt.model.frozen.linear import Unpacked
from megacpt.model.hf_tensors import HfTensors
from megacpt.model.placement import Placed, placed_params

READ_BYTES = 2**25
"""Of an embedding a rank's rows would be a third of all that it holds of a small model."""


class ReadSlice(Protocol):
    def __call__(self, placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        """The part of a source along the row's ``tp_dim`` (all of it, where the row is not cut)."""


def load_hf(chunks: Sequence[Any], *, folder: Path | str, architecture: Architecture) -> None:
    """Copy this rank's slices of the folder's tensors straight into the chunks' parameters.

    Each tensor is converted to the parameter's type as it is copied; beside the model there is
    never more than one slice in memory.
    """
    tensors = HfTensors.of_folder(Path(folder), architecture=architecture)
    if architecture.tied_embeddings:
        _require_tied(tensors, architecture=architecture, folder=Path(folder))

    def read(placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        return tensors.read(placed.hf_name(source), dim=placed.row.tp_dim, span=span)

    fill(chunks, read=read, architecture=architecture, most_bytes=READ_BYTES)


def _require_tied(tensors: HfTensors, *, architecture: Architecture, folder: Path) -> None:
    """Some folders store a tied head as well; it must be the embedding, or tying changes it."""
    head, table = (table_name(architecture, role=role) for role in (Role.head, Role.embedding))
    if head not in tensors.places:
        return
    num_rows = architecture.vocab_size
    for start in range(0, num_rows, 4096):
        rows = slice(start, min(start + 4096, num_rows))
        stored, wanted = (tensors.read(name, dim=0, span=rows) for name in (head, table))
        if not torch.equal(stored, wanted):
            raise ModelError(
                f"{head} in {folder} must equal {table}, because config.json says "
                "tie_word_embeddings, but differs; set tie_word_embeddings to false there."
            )


def initialise_randomly(chunks: Sequence[Any], *, architecture: Architecture, seed: int) -> None:
    """Normal matrices, norms without a scale, zero biases: by seed and name, on any layout.

    Each tensor is drawn whole from a generator of its own and then cut.
    """

    def draw(placed: Placed, *, source: HfTensor, span: slice) -> torch.Tensor:
        whole = drawn(
            placed.hf_name(source),
            source=source,
            role=placed.row.role,
            architecture=architecture,
            seed=seed,
        )
        return within(whole, dim=placed.row.tp_dim, span=span)

    fill(chunks, read=draw, architecture=architecture)


def within(whole: torch.Tensor, *, dim: int | None, span: slice) -> torch.Tensor:
    """A rank's part of a tensor; all of it where it is not cut."""
    return whole if dim is None else whole[(slice(None),) * dim + (span,)]


def drawn(
    name: str, *, source: HfTensor, role: Role, architecture: Architecture, seed: int
) -> torch.Tensor:
    """The whole tensor of a model that begins at random."""
    shape = source.shape(architecture)
    if role in (Role.norm, Role.scale, Role.bias):
        is_one = role is Role.scale or (role is Role.norm and not architecture.norms.plus_one)
        return torch.full(shape, 1.0 if is_one else 0.0)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator) * architecture.initializer_range


@torch.no_grad()
def fill(
    chunks: Sequence[Any],
    *,
    read: ReadSlice,
    architecture: Architecture,
    most_bytes: int = sys.maxsize,
    of_adapter: bool = False,
    wanted: Callable[[Param], bool] = lambda row: True,
) -> None:
    """Write every parameter of the model, or of its adapter, that is ``wanted``, padding rows
    included (zeros); of one cut by rows, so many bytes of the parameter are read at once."""
    # A list, as those that are packed then are no parameters any more.
    for placed in list(placed_params(chunks, architecture=architecture)):
        if placed.row.of_adapter is not of_adapter or not wanted(placed.row):
            continue
        cut = placed.cut
        with _writable(placed.tensor) as native:
            views = placed.row.views(native, architecture=architecture, tp=cut.size)
            for source, view in zip(placed.row.sources, views, strict=True):
                span = slice(0)
                if placed.row.tp_dim is not None:
                    span = placed.row.span(
                        view, source=source, architecture=architecture, rank=cut.rank
                    )
                of_rows = placed.row.tp_dim == 0 and len(view) == 1
                rows_max = most_bytes // max(view[:, :1].nbytes, 1) if of_rows else view.shape[1]
                for rows in _pieces(view.shape[1], most=max(rows_max, 1)):
                    at = span if not of_rows else _within(span, rows=rows)
                    _write(view[:, rows], part=read(placed, source=source, span=at))


def _pieces(rows: int, *, most: int) -> Iterator[slice]:
    for first in range(0, rows, most):
        yield slice(first, min(first + most, rows))


def _within(span: slice, *, rows: slice) -> slice:
    """Those of its indices that are the ``rows`` of a view; fewer, where the rest is padding."""
    start, stop = (min(span.start + row, span.stop) for row in (rows.start, rows.stop))
    return slice(start, stop)


@contextmanager
def _writable(parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """A plain tensor to write the weight into. One that is packed is so when that is whole.

    An fp8 weight (``precision.fp8_param_gather``) is a pair of numbers and scales, of which no part
    can be written. It is quantised from a bf16 tensor when that is whole. The optimizer takes its
    master weight from the same tensor, which Transformer Engine keeps until then: from fp8 it would
    have lost the base model's last bits.
    """
    if isinstance(parameter, Unpacked):
        wide = torch.empty(parameter.shape, dtype=parameter.dtype)
        yield wide
        parameter.put_packed(wide)
        return
    if not is_float8tensor(parameter):
        yield parameter.data
        return
    wide = torch.empty(parameter.shape, dtype=torch.bfloat16, device=parameter.device)
    yield wide
    with torch.no_grad():
        parameter.copy_(wide)
    parameter._high_precision_init_val = wide.cpu()  # type: ignore[attr-defined]


def _write(view: torch.Tensor, *, part: torch.Tensor) -> None:
    """Copy into a (groups, rows, ...) view; rows that the part lacks are vocabulary padding."""
    groups, rows = view.shape[:2]
    filled = part.shape[0] // groups
    view[:, :filled].copy_(part.reshape(groups, filled, *part.shape[1:]))
    view[:, filled:rows].zero_()
