# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints stay: the last ones, every so many steps, the best by held-out loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.config.sections import CheckpointConfig, EvaluateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What must stay; anything else may go."""

    keep_last: int
    """This many of the newest; at least 1."""
    keep_every_steps: int = 0
    """Also those of each step that this divides; 0: none for this reason."""
    best_of: str | None = None
    """Also the one with the lowest loss on this held-out set."""

    def kept(self, manifests: Sequence[CheckpointManifest]) -> dict[int, str]:
        """Step -> why it stays; ``manifests`` are of checkpoints that can be used, newest first."""
        reasons: dict[int, str] = {}
        if (best := self._best(manifests)) is not None:
            reasons[best.step] = "best"
        for manifest in manifests:
            if self.keep_every_steps > 0 and manifest.step % self.keep_every_steps == 0:
                reasons.setdefault(manifest.step, f"every {self.keep_every_steps}")
        for manifest in manifests[: max(self.keep_last, 1)]:
            reasons[manifest.step] = "last"
        return reasons

    def _best(self, manifests: Sequence[CheckpointManifest]) -> CheckpointManifest | None:
        """The newest of equal ones; a loss that is not a number is none."""
        losses = [(m.heldout or {}).get(self.best_of or "", math.nan) for m in manifests]
        measured = [
            (loss, m) for loss, m in zip(losses, manifests, strict=True) if not math.isnan(loss)
        ]
        return min(measured, key=lambda pair: pair[0])[1] if measured else None


def retention_of(config: CheckpointConfig, *, best_of: str | None) -> Retention:
    """``best_of``: what ``loss_of`` says, for a run that keeps the best."""
    return Retention(
        keep_last=config.keep_last,
        keep_every_steps=config.keep_every_steps,
        best_of=best_of if config.keep_best else None,
    )


def loss_of(config: EvaluateConfig) -> str | None:
    """The held-out set that tells which checkpoint is best: what the run is for."""
    return config.domain or config.general
