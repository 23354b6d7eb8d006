# SPDX-License-Identifier: Apache-2.0
"""``manifest.json``: what a checkpoint holds, written last, so that without it there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from megacpt.errors import CheckpointError
from megacpt.files import write_text

MANIFEST = "manifest.json"
_SHOWN = 12
"""Digits of a fingerprint."""
_OWN_SUM = "manifest_xxh128"
_ADAPTER = "adapter"
_SETTINGS = {"modules": "targets", "embedding": "train_embedding", "head": "train_head"}
"""Of an adapter, those that are called otherwise in the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSum:
    """Size and checksum of a file when it was written."""

    bytes: int
    xxh128: str
    """XXH3-128, hexadecimal: seven times as fast as SHA-256, and as sure to see damage. It does not
    guard against forgery: whoever can write the file can write its manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint holds, so that a mismatch is found before any tensor is read."""

    step: int
    start: int
    """Number of the start that wrote it (megacpt.checkpoint.starts)."""
    architecture: dict[str, object]
    layout: dict[str, int]
    """Sizes tp, cp, pp, vpp, dp, ep and etp of the run that wrote it."""
    data: dict[str, Any]
    """What was drawn from each source, segment by segment (megacpt.samples.record)."""
    tokens_per_source: dict[str, int]
    """Valid target tokens trained on so far."""
    elapsed_s: float
    """Seconds of training so far, over all restarts."""
    base_heldout: dict[str, dict[str, float]] | None
    """Held-out losses of the untouched base model, measured before the first step."""
    heldout: dict[str, float] | None
    """Held-out set -> loss of this very step; None where none was measured."""
    faults: dict[str, Any]
    """Updates applied, recent losses and gradient norms, events (megacpt.train.guard.faults)."""
    files: dict[str, FileSum]
    """Name inside the folder -> size and checksum."""
    base: str | None = None
    """Of an adapter: the fingerprint of the weights that it goes with
    (megacpt.families.stored.fingerprint)."""
    gate: str | None = None
    """Fingerprint of the gate as it was before the first step (megacpt.config.declared)."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())

    def write(self, folder: Path) -> None:
        """Write it with a checksum of its own, so that a flipped digit is no other step."""
        tree = json.loads(json.dumps(asdict(self)))
        tree[_OWN_SUM] = _sum_of(tree)
        write_text(folder / MANIFEST, text=json.dumps(tree, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> CheckpointManifest:
        """The manifest as it was written; the other files are not looked at (see verify)."""
        try:
            tree = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if tree.pop(_OWN_SUM) != _sum_of(tree):
                raise ValueError("its checksum is wrong")
            tree["files"] = {name: FileSum(**found) for name, found in tree["files"].items()}
            return cls(**tree)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: {MANIFEST} {_reason(error)}.") from error


def require_architecture(
    manifest: CheckpointManifest, *, architecture: Mapping[str, object], folder: Path
) -> None:
    """Refuse a checkpoint of another model than the base model that the run names."""
    known = json.loads(json.dumps(architecture))
    _require_adapter(manifest.architecture.get(_ADAPTER), own=known.get(_ADAPTER), folder=folder)
    for name, value in manifest.architecture.items():
        if name != _ADAPTER and not _has(known.get(name), stated=value):
            raise CheckpointError(
                f"{folder} is of another model: its {name} is {value}, the base model's is "
                f"{architecture.get(name)}; use the model and model.rope it was written with, or a "
                "new run_dir."
            )


def _require_adapter(stated: Any, *, own: Any, folder: Path) -> None:
    """The same one, or none on both sides. Dropout may differ: it is of the steps that come."""
    if stated is None and own is not None:
        raise CheckpointError(
            f"{folder} holds all weights of a model, and this run trains an adapter beside those "
            "of its base model; write it as a Hugging Face folder with megacpt export, and begin "
            "with that: model.path=FOLDER, checkpoint.load_from=null."
        )
    if stated is not None and own is None:
        raise CheckpointError(
            f"{folder} holds an adapter, and this run trains all weights (adapter=none); use the "
            "adapter settings that it was written with, or write both as a whole model, megacpt "
            f"merge --adapter {folder} --output FOLDER, and begin with that in a new run_dir: "
            "model.path=FOLDER."
        )
    names = [n for n in own or () if n != "dropout" and not _has(own[n], stated=stated.get(n))]
    if names:
        unlike = (
            f"adapter.{_SETTINGS.get(n, n)} was {_shown(stated.get(n))} and is {_shown(own[n])}"
            for n in names
        )
        raise CheckpointError(
            f"{folder} holds another adapter than this run's: {', '.join(unlike)}; use the "
            "settings it was written with, or begin a new adapter: another run_dir, and "
            "checkpoint.load_from=null."
        )


def _shown(value: object) -> str:
    """As it is set; of modules the ends of their names, which a layer's are told apart by."""
    if isinstance(value, list):
        return ",".join(dict.fromkeys(str(part).rpartition(".")[2] for part in value)) or "none"
    return str(value).lower()


def require_base(
    manifest: CheckpointManifest, *, base: str | None, model: object, folder: Path
) -> None:
    """Refuse an adapter's checkpoint beside other weights than it was trained with; ``base``: the
    fingerprint of ``model``."""
    if base is not None and manifest.base is not None and base != manifest.base:
        raise CheckpointError(
            f"{folder} is an adapter to other weights: it was trained with those of fingerprint "
            f"{manifest.base[:_SHOWN]}, {model} has {base[:_SHOWN]}; put the model there that the "
            "run began with."
        )


def _has(value: object, *, stated: object) -> bool:
    """Of a group of values those count that the checkpoint states: it may be older than others."""
    if isinstance(value, Mapping) and isinstance(stated, Mapping):
        return all(_has(value.get(name), stated=part) for name, part in stated.items())
    return value == stated


def _sum_of(tree: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(tree, sort_keys=True).encode())


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, KeyError):
        return f"is not that of a checkpoint: it has no {error}"
    return f"is not that of a checkpoint: {error}"
