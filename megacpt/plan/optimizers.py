# SPDX-License-Identifier: Apache-2.0
"""One row per optimizer: megatron-core's arguments, the bytes of its state, the packages it needs.

Memory, checkpoint size, learning rates and the optimizer of a run read the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from megacpt.config.sections import Dtype, OptimConfig, Optimizer
from megacpt.families.weights import Role

MUON_RMS = 0.2
"""Root mean square of a ``spectral`` update before the rate: about AdamW's, so that one rate suits
both (Liu et al., equation 4, https://arxiv.org/abs/2502.16982)."""
MATRICES = (Role.linear, Role.router)
MOMENT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRow:
    """An optimizer of megatron-core; weights that are no matrices always have AdamW."""

    megatron_name: str
    matrix_moments: int
    """Moments kept of a matrix of a layer, each in fp32; AdamW's are two."""
    arguments: Callable[[OptimConfig, Dtype], Mapping[str, object]] = lambda optim, dtype: {}
    """Those of megatron-core's OptimizerConfig that only this optimizer has."""
    matrix_lr_multiplier: Callable[[OptimConfig], float] = lambda _: 1.0
    packages: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Oldest version of each that does."""

    def state_bytes(self, role: Role) -> int:
        """For each value of a weight, without its fp32 copy."""
        return MOMENT_BYTES * (self.matrix_moments if role in MATRICES else 2)


def _muon(optim: OptimConfig, *, dtype: Dtype) -> Mapping[str, object]:
    muon = optim.muon
    return {
        "muon_momentum": muon.momentum,
        "muon_nesterov": muon.nesterov,
        "muon_num_ns_steps": muon.newton_schulz_steps,
        "muon_scale_mode": muon.scale,
        "muon_extra_scale_factor": MUON_RMS if muon.scale == "spectral" else 1.0,
        # bf16 products suffice for an update whose singular values need only be about one.
        "muon_fp32_matmul_prec": "highest" if dtype is Dtype.fp32 else "medium",
        # Every rank orthogonalises the gathered matrix: the same update for any tp.
        "muon_tp_mode": "duplicated",
    }


OPTIMIZERS = {
    Optimizer.adamw: OptimizerRow(megatron_name="adam", matrix_moments=2),
    Optimizer.muon: OptimizerRow(
        megatron_name="muon",
        matrix_moments=1,
        arguments=lambda optim, dtype: _muon(optim, dtype=dtype),
        matrix_lr_multiplier=lambda optim: optim.muon.lr_multiplier,
        packages={"megatron-core": (0, 18), "emerging-optimizers": (0, 2)},
    ),
}
