# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed's ZeRO checkpoints of transformers models: the fp32 weights that its optimizer holds.

Every rank has saved its share of the weights as flat tensors. The order and the shapes of the
parameters, in the ranks' model states, say what of them is what. Stage 3 deals each parameter out
to the ranks, stages 1 and 2 a group of parameters as a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint.stored.torch_file import StoredTensor, Where, read_torch_file
from megacpt.convert.foreign.named import Held, source_of
from megacpt.convert.sources import SourceModel
from megacpt.errors import CheckpointError

MODEL_STATES = "*_model_states.pt"
_OPTIM_STATES = "*_optim_states.pt"
_RANK = re.compile(r"(?:\w+_)?zero_pp_rank_(\d+)_mp_rank_00_(?:model|optim)_states\.pt")
_WHOLE = "mp_rank_00_model_states.pt"
"""The model states of stages 1 and 2."""
_KNOWN = {("deepspeed.runtime.zero.config", "ZeroStageEnum"): int}
_REMEDY = "run the checkpoint's own zero_to_fp32.py with --safe_serialization"


def deepspeed(folder: Path, *, described_by: Path) -> SourceModel:
    """``CheckpointError`` names the file or tensor that is missing or of a form not known."""
    zero = _read(folder)
    held = {
        name: Held(
            shape=tuple(shape),
            dtype=spans[0].flat.dtype,
            copy_to=partial(_copy, spans=spans, shape=tuple(shape)),
        )
        for name, shape, spans in (*zero.trained(), *zero.frozen(), *zero.buffers())
    }
    shared = {
        name: held[other]
        for name, other in zero.models[0].get("shared_params", {}).items()
        if other in held
    }
    return source_of({**shared, **held}, folder=folder, described_by=described_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Successive values of a stored tensor without gaps."""

    flat: StoredTensor
    start: int
    end: int


_Named = tuple[str, Sequence[int], tuple[_Span, ...]]
"""Name, shape and values of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zero:
    """What the ranks have saved, in their order."""

    folder: Path
    stage: int
    models: Sequence[Mapping[str, Any]]
    flats: Sequence[Sequence[StoredTensor]]
    """Of each rank, by group."""
    paddings: Sequence[Sequence[int]] | None
    """Values after each parameter of each group, where there are any."""

    def trained(self) -> Iterator[_Named]:
        groups = self.models[0]["param_shapes"]
        return self._dealt(groups) if self.stage == 3 else self._in_groups(groups)

    def _dealt(self, groups: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[_Named]:
        """Stage 3: of each parameter every rank has a share of one size, in one order."""
        ranks = [_spans(flats) for flats in self.flats]
        at = 0
        for name, shape in (pair for group in groups for pair in group.items()):
            share = math.ceil(math.prod(shape) / len(ranks))
            spans = [s for rank in ranks for s in _cut(rank, start=at, end=at + share)]
            yield name, shape, self._all_of(name, shape=shape, spans=spans)
            at += share
        self._require_end(at, held=_length(ranks[0]))

    def _in_groups(self, groups: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[_Named]:
        """Stages 1 and 2: the parameters of a group follow each other, over all ranks."""
        for number, group in enumerate(groups):
            values = _spans([flats[number] for flats in self.flats])
            paddings = self.paddings[number] if self.paddings else [0] * len(group)
            at = 0
            for (name, shape), padding in zip(group.items(), paddings, strict=True):
                end = at + math.prod(shape)
                spans = _cut(values, start=at, end=end)
                yield name, shape, self._all_of(name, shape=shape, spans=spans)
                at = end + padding
            # The end is filled up to a multiple of twice the ranks, for the network's sake.
            step = 2 * len(self.flats)
            self._require_end(math.ceil(at / step), held=math.ceil(_length(values) / step))

    def frozen(self) -> Iterator[_Named]:
        """Parameters that are not trained: in stage 3 every rank has its share in its model
        states."""
        for name, shape in (self.models[0].get("frozen_param_shapes") or {}).items():
            shares = [model["frozen_param_fragments"][name] for model in self.models]
            yield name, shape, self._all_of(name, shape=shape, spans=_spans(shares))

    def buffers(self) -> Iterator[_Named]:
        model = self.models[0]
        for name in model["buffer_names"]:
            if name in (model["module"] or {}):
                tensor = model["module"][name]
                spans = _spans([tensor])
                yield name, tensor.shape, self._all_of(name, shape=tensor.shape, spans=spans)

    def _all_of(
        self, name: str, *, shape: Sequence[int], spans: Sequence[_Span]
    ) -> tuple[_Span, ...]:
        if _length(spans) < math.prod(shape):
            raise CheckpointError(
                f"{self.folder} holds {_length(spans)} of {math.prod(shape)} values of {name} "
                f"(shape {list(shape)}); copy the whole folder again."
            )
        return tuple(spans)

    def _require_end(self, at: int, *, held: int) -> None:
        """Another order or other gaps would give every parameter its neighbour's values."""
        if at != held:
            raise CheckpointError(
                f"{self.folder}: the parameters that its model states name take {at} values of a "
                f"rank, but its optimizer states hold {held}; {_REMEDY}."
            )


def _read(folder: Path) -> _Zero:
    optims = [_states(path) for path in _of_ranks(folder, pattern=_OPTIM_STATES)]
    states = [optim["optimizer_state_dict"] for optim in optims]
    count, stage = states[0].get("partition_count"), states[0].get("zero_stage")
    ranks = max(count) if isinstance(count, list) else count
    if ranks != len(states):
        raise CheckpointError(
            f"{folder} must hold the optimizer states of {ranks} ranks ({_OPTIM_STATES}), but has "
            f"{len(states)}; copy the files of all nodes into it."
        )
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    flats = [state.get(key) for state in states]
    plain = all(isinstance(f, list) and all(isinstance(t, StoredTensor) for t in f) for f in flats)
    if stage not in (1, 2, 3) or not plain:
        raise CheckpointError(
            f"{folder} must hold fp32 weights as {key} in its optimizer states (ZeRO stage "
            f"{stage}), but does not; {_REMEDY}."
        )
    return _Zero(
        folder=folder,
        stage=stage,
        models=_models(folder, stage=stage, ranks=ranks),
        flats=flats,
        paddings=states[0].get("param_alignment_paddings"),
    )


def _models(folder: Path, *, stage: int, ranks: int) -> list[Any]:
    if stage < 3:
        return [_states(folder / _WHOLE)]
    models = [_states(path) for path in _of_ranks(folder, pattern=MODEL_STATES)]
    if len(models) != ranks:
        raise CheckpointError(
            f"{folder} must hold the model states of {ranks} ranks ({MODEL_STATES}), but has "
            f"{len(models)}; copy the files of all nodes into it."
        )
    return models


def _of_ranks(folder: Path, *, pattern: str) -> list[Path]:
    """Files in the order of the ranks, all of them there."""
    numbered = {}
    for path in folder.glob(pattern):
        found = _RANK.fullmatch(path.name)
        if found is None:
            raise CheckpointError(
                f"{path} is of a model that was cut (tensor, pipeline or expert parallel); only "
                f"ZeRO over whole models is read: {_REMEDY}."
            )
        numbered[int(found[1])] = path
    if missing := [n for n in range(max(numbered, default=0) + 1) if n not in numbered]:
        raise CheckpointError(
            f"{folder} has no {pattern} of rank {missing[0]}; copy the files of all nodes into it."
        )
    return [numbered[rank] for rank in sorted(numbered)]


def _states(path: Path) -> Any:
    """``CheckpointError`` where the file lacks what is read of all of its kind."""
    needed = ("optimizer_state_dict",) if "optim" in path.name else ("param_shapes", "buffer_names")
    try:
        states = read_torch_file(path, known=_KNOWN)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); copy it again."
        ) from error
    missing = [name for name in needed if not isinstance(states, dict) or name not in states]
    if missing:
        raise CheckpointError(f"{path} holds no {missing[0]} of DeepSpeed's; {_REMEDY}.")
    return states


def _spans(tensors: Sequence[StoredTensor]) -> list[_Span]:
    sizes = [math.prod(tensor.shape) for tensor in tensors]
    return [
        _Span(flat=tensor.viewed((size,)), start=0, end=size)
        for tensor, size in zip(tensors, sizes, strict=True)
    ]


def _length(spans: Sequence[_Span]) -> int:
    return sum(span.end - span.start for span in spans)


def _cut(spans: Sequence[_Span], *, start: int, end: int) -> list[_Span]:
    """The values ``start`` to ``end`` of all of them, one after another."""
    parts, at = [], 0
    for span in spans:
        low = span.start + max(start - at, 0)
        high = min(span.end, span.start + end - at)
        if low < high:
            parts.append(_Span(flat=span.flat, start=low, end=high))
        at += span.end - span.start
    return parts


def _copy(
    out: torch.Tensor, *, where: Where, spans: Sequence[_Span], shape: tuple[int, ...]
) -> None:
    """Of a parameter of that shape, whose values follow each other in ``spans``; ``out`` is
    contiguous."""
    counts = [bounds.stop - bounds.start for bounds in where]
    thick = next((dim for dim, count in enumerate(counts) if count != 1), len(counts))
    if counts[thick + 1 :] != list(shape[thick + 1 :]):
        # Not successive values: one after another.
        for number in range(counts[thick]):
            at = slice(where[thick].start + number, where[thick].start + number + 1)
            part = out.narrow(thick, number, 1)
            _copy(part, where=(*where[:thick], at, *where[thick + 1 :]), spans=spans, shape=shape)
        return
    start = sum(bounds.start * math.prod(shape[dim + 1 :]) for dim, bounds in enumerate(where))
    values, done = out.view(-1), 0
    for span in _cut(spans, start=start, end=start + out.numel()):
        count = span.end - span.start
        span.flat.copy_to(values[done : done + count], where=(slice(span.start, span.end),))
        done += count
