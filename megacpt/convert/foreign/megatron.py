# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Megatron-LM, Megatron-Bridge and whoever else saves megatron-core's GPTModel in
its format torch_dist, of any layout.

megatron-core has spelled the same weights in three ways: all layers as one tensor; one for each
layer, where layers differ or since 0.16 by choice; and one for each expert as well, gate and up
apart. The rows of the family say what each weight is (``megacpt.convert.native.layout``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from megacpt.checkpoint.stored.dcp import DcpFolder
from megacpt.convert.foreign.stated import require_settings
from megacpt.convert.native.layout import NativeTensor, Run, native_tensors
from megacpt.convert.sources import DTYPES, SourceModel, SourceTensor
from megacpt.errors import CheckpointError
from megacpt.families import param_rows, read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.saved import FUSED_NORM, OF_EXPERTS, is_of_vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """Rows of a weight, as entry ``index`` of a saved tensor."""

    key: str
    index: tuple[int, ...]
    leading: tuple[int, ...]
    """How many entries there are: layers, experts."""
    count: int
    first: int = 0
    """Where they begin in the weight."""


def megatron(folder: DcpFolder, *, described_by: Path) -> SourceModel:
    """``CheckpointError`` names the tensor that is missing, too many or of another shape."""
    architecture = read_architecture(described_by)
    reader = _Reader(folder=folder, norms=_norms(architecture))
    tensors: dict[str, SourceTensor] = {}
    used: set[str] = set()
    stacked = native_tensors(architecture, stacked=True)
    for of_all, of_one in zip(stacked, native_tensors(architecture, stacked=False), strict=True):
        saved = reader.find(of_all, of_one=of_one)
        used |= {part.key for part in saved}
        tensors |= dict(reader.tensors_of(of_one, saved=saved))
    reader.require_all(used)
    require_settings(folder, architecture=architecture, described_by=described_by)
    folder.require_files(used)
    return SourceModel(
        folder=folder.folder, described_by=described_by, architecture=architecture, tensors=tensors
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    folder: DcpFolder
    norms: Mapping[str, str]
    """The end of a norm's key -> the same norm's elsewhere."""

    def find(self, of_all: NativeTensor, *, of_one: NativeTensor) -> tuple[_Saved, ...]:
        """A weight under the first of its spellings that the checkpoint has."""
        spellings = [*self._whole(of_all), *self._whole(of_one), *_singles(of_one)]
        for spelling in spellings:
            if all(part.key in self.folder.tensors for part in spelling):
                for part in spelling:
                    self._require_fit(part, tensor=of_one)
                return spelling
        keys = " or ".join(dict.fromkeys(spelling[0].key for spelling in spellings))
        raise CheckpointError(
            f"{self.folder.folder} has no tensor {keys}, which config.json asks for; "
            f"{self._why()}name the Hugging Face folder of this model with --base."
        )

    def _whole(self, tensor: NativeTensor) -> Iterator[tuple[_Saved, ...]]:
        others = (
            tensor.key.removesuffix(end) + other
            for end, other in self.norms.items()
            if tensor.key.endswith(end)
        )
        for key in (tensor.key, *others):
            yield (_whole(tensor, key=key),)

    def _why(self) -> str:
        if self.folder.tensors and all(_of_optimizer(key) for key in self.folder.tensors):
            return "it holds states of an optimizer and no weights: save the model as well, or "
        return ""

    def _require_fit(self, part: _Saved, *, tensor: NativeTensor) -> None:
        found = self.folder.tensors[part.key]
        wanted = (*part.leading, part.count, *tensor.shape[1:])
        # A vocabulary that was filled up (make_vocab_size_divisible_by) has more rows.
        padded = is_of_vocabulary(part.key) and found.shape[:1] > wanted[:1]
        if found.shape != wanted and not (padded and found.shape[1:] == wanted[1:]):
            raise CheckpointError(
                f"{part.key} in {self.folder.folder} must have shape {list(wanted)}, which "
                f"config.json states, but has {list(found.shape)}; name the Hugging Face folder of "
                "this model with --base."
            )
        if found.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{part.key} in {self.folder.folder} must be of type {', '.join(DTYPES)}, but is "
                f"{found.dtype}; save the model with plain weights."
            )

    def require_all(self, used: set[str]) -> None:
        """A weight that nothing reads would change the model silently."""
        left = self.folder.tensors.keys() - used
        if extra := sorted(key for key in left if not _of_optimizer(key)):
            more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
            raise CheckpointError(
                f"{self.folder.folder} has a tensor {extra[0]}{more} that config.json gives no "
                "place; name the Hugging Face folder of this model with --base."
            )

    def tensors_of(
        self, tensor: NativeTensor, *, saved: tuple[_Saved, ...]
    ) -> Iterator[tuple[str, SourceTensor]]:
        """The Hugging Face tensors that are packed into a weight."""
        dtype = self.folder.tensors[saved[0].key].dtype
        for number, name in enumerate(tensor.names):
            runs = tuple(run for run in tensor.runs if run.source == number)
            rows = sum(run.count for run in runs)
            fill = partial(self._fill, runs=runs, saved=saved)
            yield name, SourceTensor(shape=(rows, *tensor.shape[1:]), dtype=dtype, fill=fill)

    def _fill(
        self, out: torch.Tensor, *, first: int, runs: tuple[Run, ...], saved: tuple[_Saved, ...]
    ) -> None:
        for run in runs:
            start, end = max(run.hf, first), min(run.hf + run.count, first + len(out))
            if start < end:
                native = run.native + start - run.hf
                self._copy(out[start - first : end - first], first=native, saved=saved)

    def _copy(self, out: torch.Tensor, *, first: int, saved: tuple[_Saved, ...]) -> None:
        """Rows of a weight from ``first`` on."""
        for part in saved:
            start = max(part.first, first)
            end = min(part.first + part.count, first + len(out))
            if start < end:
                target = out[start - first : end - first]
                where = (
                    *(slice(i, i + 1) for i in part.index),
                    slice(start - part.first, end - part.first),
                    *(slice(0, size) for size in out.shape[1:]),
                )
                shape = [bounds.stop - bounds.start for bounds in where]
                self.folder.copy_to(target.view(shape), name=part.key, where=where)


def _norms(architecture: Architecture) -> dict[str, str]:
    """A norm before a linear layer is saved as part of it, or on its own. Before experts, which one
    depends on the spec: Transformer Engine's has no linear layer there, the local one says it has.
    """
    ends: dict[str, str] = {}
    for row in param_rows(architecture):
        if row.engine is not None and FUSED_NORM in row.engine:
            alone, fused = (
                f".{name.partition('{layer}.')[2]}" for name in (row.native, row.engine)
            )
            ends |= {alone: fused, fused: alone}
    return ends


def _whole(tensor: NativeTensor, *, key: str) -> _Saved:
    return _Saved(key=key, index=tensor.index, leading=tensor.leading, count=tensor.shape[0])


def _singles(tensor: NativeTensor) -> Iterator[tuple[_Saved, ...]]:
    """Each expert, and gate and up, under keys of their own (``singleton_local_shards``)."""
    key = tensor.key
    if tensor.index:
        key = key.replace(OF_EXPERTS, f"{OF_EXPERTS}{tensor.index[0]}.")
        yield (_Saved(key=key, index=(), leading=(), count=tensor.shape[0]),)
    if len(tensor.names) == 2:
        half = tensor.shape[0] // 2
        yield (
            _Saved(key=f"{key}_w", index=(), leading=(), count=half),
            _Saved(key=f"{key}_v", index=(), leading=(), count=half, first=half),
        )


def _of_optimizer(key: str) -> bool:
    return "optimizer" in key.split(".")[:2]
