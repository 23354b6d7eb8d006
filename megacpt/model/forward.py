# SPDX-License-Identifier: Apache-2.0
"""Run microbatches through megatron-core's pipeline schedule, forward only or with backward.

Shapes: B microbatch size, S sequence length, N number of sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from megacpt.model.adapters.linear import unchanging_norms
from megacpt.model.layers.attention import context_parallel
from megacpt.model.layers.attention.causal import packed_documents
from megacpt.model.layers.output_layer import Chosen
from megacpt.model.microbatch import Microbatch
from megacpt.model.quantise.linear import unchanging_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Sums over all ranks, per source: divide to get a mean loss in nats a token."""

    loss_N: list[float]
    tokens_N: list[int]

    @property
    def tokens(self) -> int:
        return sum(self.tokens_N)

    @property
    def mean_loss(self) -> float:
        return sum(self.loss_N) / max(self.tokens, 1)


def run_microbatches(
    chunks: Sequence[Any],
    *,
    microbatches: Sequence[Microbatch],
    num_sources: int,
    forward_only: bool,
) -> LossSums:
    """One pass over this rank's microbatches; with backward, gradients are left in the buffers.

    megatron-core divides the summed gradient by the number of valid tokens of the whole global
    batch, so a masked token or a short sample weighs nothing wherever it lies.
    """
    samples, length = microbatches[0].model_shape
    with unchanging_weights(chunks), unchanging_norms(chunks):
        reported = get_forward_backward_func()(
            forward_step_func=_forward_step(num_sources),
            data_iterator=_iterators(chunks, microbatches=microbatches),
            model=list(chunks) if len(chunks) > 1 else chunks[0],
            num_microbatches=len(microbatches),
            seq_length=length * context_parallel.size(),
            micro_batch_size=samples,
            forward_only=forward_only,
        )
    return _sum_over_ranks(
        reported, num_sources=num_sources, device=microbatches[0].tokens_BS.device
    )


def run_logits(chunks: Sequence[Any], *, batch: Microbatch) -> torch.Tensor | None:
    """Logits_BSV of one microbatch, None off the last stage.

    V is cut over tensor-parallel ranks; S is whole on every context-parallel one.
    """
    logits_BSV = _collect(chunks, batch=batch, shape=batch.model_shape, step=_logits_step)
    return None if logits_BSV is None else _whole_samples(logits_BSV)


def run_losses(chunks: Sequence[Any], *, batch: Microbatch) -> torch.Tensor | None:
    """Loss_BS of every token of one microbatch, masked ones too; None off the last stage.

    S is whole on every context-parallel rank.
    """
    losses_BS1 = _collect(chunks, batch=batch, shape=batch.model_shape, step=_token_losses_step)
    return None if losses_BS1 is None else _whole_samples(losses_BS1).squeeze(-1)


def run_chosen(
    chunks: Sequence[Any],
    *,
    tokens_BS: torch.Tensor,
    positions_BS: torch.Tensor,
    chosen: Chosen,
) -> torch.Tensor | None:
    """What is asked after chosen tokens (megacpt.model.layers.output_layer), None off the last
    stage. ``tokens_BS``: this rank's part of the rows."""

    def step(batches: Iterator[Chosen], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        output = model(tokens_BS, positions_BS, None, chosen=next(batches))
        return output, lambda found, non_loss_data: found

    return _collect(chunks, batch=chosen, shape=tokens_BS.shape, step=step)


def _collect(
    chunks: Sequence[Any], *, batch: Any, shape: Sequence[int], step: Callable[..., Any]
) -> torch.Tensor | None:
    """What ``step`` gives of one batch on the last stage, None off it. ``shape``: of this rank's
    part of its tokens, as the model takes them."""
    samples, length = shape
    # The interleaved schedule wants a multiple of the pipeline size; the repeats cost little.
    repeats = parallel_state.get_pipeline_model_parallel_world_size() if len(chunks) > 1 else 1
    collected = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=_iterators(chunks, microbatches=[batch] * repeats),
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=repeats,
        seq_length=length * context_parallel.size(),
        micro_batch_size=samples,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return collected[0] if collected else None


def _whole_samples(part_BSV: torch.Tensor) -> torch.Tensor:
    return context_parallel.gather_S(part_BSV.transpose(0, 1)).transpose(0, 1)


def _iterators(chunks: Sequence[Any], *, microbatches: Sequence[Any]) -> Any:
    """The schedules want one iterator a virtual stage; all of them see the same samples."""
    iterators = [iter(microbatches) for _ in chunks]
    return iterators if len(iterators) > 1 else iterators[0]


def _forward_step(num_sources: int) -> Callable[..., Any]:
    def step(iterator: Iterator[Microbatch], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = next(iterator)
        output = _run_model(model, batch=batch, labels_BS=batch.labels_BS)
        return output, lambda losses: _loss(losses, batch=batch, num_sources=num_sources)

    return step


def _logits_step(
    iterator: Iterator[Microbatch], model: Any
) -> tuple[torch.Tensor, Callable[..., Any]]:
    batch = next(iterator)
    output = _run_model(model, batch=batch, labels_BS=None)
    return output, lambda logits, non_loss_data: logits.view(*batch.tokens_BS.shape, -1)


def _token_losses_step(
    iterator: Iterator[Microbatch], model: Any
) -> tuple[torch.Tensor, Callable[..., Any]]:
    batch = next(iterator)
    output = _run_model(model, batch=batch, labels_BS=batch.labels_BS)
    return output, lambda losses, non_loss_data: losses.float().view(*batch.tokens_BS.shape, 1)


def _run_model(model: Any, *, batch: Microbatch, labels_BS: torch.Tensor | None) -> torch.Tensor:
    """This stage's output for the microbatch, in the model's shape."""
    shape, documents = batch.model_shape, batch.documents
    packed = documents and packed_documents(documents.bounds, longest=documents.longest)
    output: torch.Tensor = model(
        batch.tokens_BS.view(shape),
        batch.positions_BS.view(shape),
        None,
        labels=None if labels_BS is None else labels_BS.view(shape),
        loss_mask=batch.loss_mask_BS.view(shape),
        packed_seq_params=packed,
    )
    return output


def _loss(
    losses: torch.Tensor, *, batch: Microbatch, num_sources: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed loss, number of valid tokens, and both per source as one float64 vector (2N)."""
    masked_BS = losses.float().view_as(batch.loss_mask_BS) * batch.loss_mask_BS
    report = torch.zeros(2, num_sources, dtype=torch.float64, device=losses.device)
    report[0].index_add_(0, batch.source_ids_B, masked_BS.detach().double().sum(dim=1))
    report[1].index_add_(0, batch.source_ids_B, batch.loss_mask_BS.double().sum(dim=1))
    num_tokens = batch.loss_mask_BS.sum().to(torch.int)
    return masked_BS.sum(), num_tokens, report


def _sum_over_ranks(
    reported: list[torch.Tensor], *, num_sources: int, device: torch.device
) -> LossSums:
    """Only the last stage has losses, and its tensor-parallel ranks all have the same ones."""
    total = torch.zeros(2, num_sources, dtype=torch.float64, device=device)
    if reported and parallel_state.get_tensor_model_parallel_rank() == 0:
        total += torch.stack(reported).sum(dim=0)
    torch.distributed.all_reduce(total)
    return LossSums(loss_N=total[0].tolist(), tokens_N=[int(n) for n in total[1].tolist()])
