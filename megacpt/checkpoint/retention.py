# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints stay: the last ones, every so many steps, the best by held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.config.sections import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What must stay; anything else may go."""

    keep_last: int
    """So many of the newest; at least 1."""
    keep_every_steps: int = 0
    """And those of each step that this divides; 0: none for this reason."""
    best_of: str | None = None
    """And the one with the lowest loss on this held-out set."""

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
        """Of equal ones the newest; a loss that is not a number is none."""
        if self.best_of is None:
            return None
        measured = [m for m in manifests if _is_number(_loss(m, name=self.best_of))]
        return min(measured, key=lambda m: _loss(m, name=self.best_of), default=None)


def retention_of(config: RunConfig) -> Retention:
    checkpoint = config.checkpoint
    return Retention(
        keep_last=checkpoint.keep_last,
        keep_every_steps=checkpoint.keep_every_steps,
        best_of=loss_of(config) if checkpoint.keep_best else None,
    )


def loss_of(config: RunConfig) -> str | None:
    """The held-out set that tells which checkpoint is best: what the run is for."""
    return config.evaluate.domain or config.evaluate.general


def _loss(manifest: CheckpointManifest, *, name: str | None) -> float:
    return (manifest.heldout or {}).get(name or "", float("nan"))


def _is_number(loss: float) -> bool:
    return loss == loss
