# SPDX-License-Identifier: Apache-2.0
"""Delayed scaling: a matrix is scaled by what was largest in it in the passes before.

Each layer keeps, for its input, its weight and the gradient of its output, the largest absolute
values of its last passes; the largest of these over the ranks that share the scales sets the scale
of the next pass (Transformer Engine's DelayedScaling with the algorithm ``max``). The histories are
state: a run that resumes without them is another run.

As in Transformer Engine, the largest values of a forward pass are reduced and entered together when
it ends, in one collective call. Those of a backward pass are entered when the next one begins or
the batch is done, which comes to the same.

L is the length of the history, Q = 3 the quantised matrices of a layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum

import torch
from megatron.core import parallel_state

from megacpt.model.quantise import blocks, numbers
from megacpt.model.quantise.recipes import Operands, Pass, both_ways

State = dict[str, torch.Tensor]


class Matrix(IntEnum):
    """Columns of the history."""

    activation = 0
    weight = 1
    gradient = 2


class DelayedScaling:
    """The recipe at one layer, with its histories and scales."""

    def __init__(self, *, forward: torch.dtype, backward: torch.dtype, history_length: int) -> None:
        self._dtypes = (forward, forward, backward)
        self.amax_history_LQ = torch.zeros(history_length, len(Matrix))
        """Row 0 is the newest pass."""
        self.scale_Q = torch.ones(len(Matrix))
        self.pending_Q = torch.zeros(len(Matrix))
        """Of this rank's passes that are not entered yet."""
        self._rehearsed: deque[torch.Tensor] = deque()
        self._repeated: torch.Tensor | None = None

    def activation(self, x_RC: torch.Tensor, *, during: Pass) -> Operands:
        """Called before ``weight`` in each pass."""
        self._repeated = None
        if during is Pass.training and self._rehearsed:
            self._repeated = self._rehearsed.popleft()
        elif during is Pass.rehearsal:
            self._rehearsed.append(self.scale_Q.clone())
        return self._forward(Matrix.activation, x_RC=x_RC, during=during)

    def weight(self, w_RC: torch.Tensor, *, during: Pass) -> Operands:
        return self._forward(Matrix.weight, x_RC=w_RC, during=during)

    def gradient(self, dy_RC: torch.Tensor) -> Operands:
        operands = self._quantise(Matrix.gradient, x_RC=dy_RC, scale=self.scale_Q[Matrix.gradient])
        self._record(Matrix.gradient, x_RC=dy_RC)
        return operands

    def forget_rehearsals(self) -> None:
        """No backward pass is coming for the forward passes so far."""
        self._rehearsed.clear()

    def state(self) -> State:
        return {"amax_history": self.amax_history_LQ.clone(), "scale": self.scale_Q.clone()}

    def load(self, state: State) -> None:
        """Go on from ``state``; of a history of another length the newest part."""
        saved = state["amax_history"]
        length = min(len(saved), len(self.amax_history_LQ))
        self.amax_history_LQ.zero_()
        self.amax_history_LQ[:length] = saved[:length]
        self.scale_Q.copy_(state["scale"])

    def _forward(self, matrix: Matrix, *, x_RC: torch.Tensor, during: Pass) -> Operands:
        """What is computed a second time has the scales of the first, and is not counted again."""
        scales_Q = self.scale_Q if self._repeated is None else self._repeated
        operands = self._quantise(matrix, x_RC=x_RC, scale=scales_Q[matrix])
        if during is not Pass.evaluation and self._repeated is None:
            self._record(matrix, x_RC=x_RC)
        return operands

    def _quantise(self, matrix: Matrix, *, x_RC: torch.Tensor, scale: torch.Tensor) -> Operands:
        return both_ways(blocks.per_tensor(x_RC, scale=scale, dtype=self._dtypes[matrix]))

    def _record(self, matrix: Matrix, *, x_RC: torch.Tensor) -> None:
        self.pending_Q[matrix] = torch.maximum(self.pending_Q[matrix], blocks.amax_of(x_RC))

    def update(self, matrix: Matrix, *, amax: torch.Tensor) -> None:
        """Enter a pass's largest absolute value and set the scale of the next.

        A pass that saw zeros only is not counted. While the history holds an infinite value the
        scale stays as it was; NaN is passed over.
        """
        if amax == 0.0:
            return
        history_L = self.amax_history_LQ[:, matrix]
        history_L.copy_(torch.cat((amax.view(1), history_L[:-1])))
        largest = history_L.nan_to_num(nan=0.0, posinf=torch.inf).max()
        if torch.isfinite(largest) and largest > 0.0:
            scale = blocks.quotient(numbers.largest(self._dtypes[matrix]), divisor=largest)
            self.scale_Q[matrix] = scale.clamp(max=torch.finfo(torch.float32).max)


class AmaxLedger:
    """Enters what the layers of one chunk have seen, at the end of its passes."""

    def __init__(self, layers: Sequence[DelayedScaling]) -> None:
        self.layers = layers
        self._backward_is_open = False

    def watch(self, block: torch.nn.Module) -> None:
        """``block``: the chunk's layers, from input to output."""
        block.register_forward_hook(
            lambda block, _, output: self._after_forward(output, training=block.training)
        )

    def close(self) -> None:
        """All passes over a batch are done."""
        if self._backward_is_open:
            self._backward_is_open = False
            self._enter([Matrix.gradient])

    def _after_forward(self, output: torch.Tensor, *, training: bool) -> None:
        if training:
            self._enter([Matrix.activation, Matrix.weight])
        if output.requires_grad:
            output.register_hook(self._before_backward)  # type: ignore[no-untyped-call]

    def _before_backward(self, _gradient: torch.Tensor) -> None:
        self.close()
        self._backward_is_open = True

    def _enter(self, matrices: list[Matrix]) -> None:
        amax_NM = torch.stack([layer.pending_Q[matrices] for layer in self.layers])
        group = parallel_state.get_amax_reduction_group(with_context_parallel=True)
        if torch.distributed.get_world_size(group) > 1:
            torch.distributed.all_reduce(amax_NM, op=torch.distributed.ReduceOp.MAX, group=group)
        for layer, amax_M in zip(self.layers, amax_NM, strict=True):
            layer.pending_Q[matrices] = 0.0
            for matrix, amax in zip(matrices, amax_M, strict=True):
                layer.update(matrix, amax=amax)
