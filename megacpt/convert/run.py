# SPDX-License-Identifier: Apache-2.0
"""Export a run: its newest checkpoint, of whatever layout, as one certified folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from megacpt.checkpoint import folders, state
from megacpt.checkpoint.manifest import CheckpointManifest, require_architecture
from megacpt.config.hub_model import named
from megacpt.config.sections import DeviceKind, Dtype, ModelConfig, ParallelConfig, PrecisionConfig
from megacpt.convert.certificate import write_certificate
from megacpt.convert.chat import write_chat_template
from megacpt.convert.export import export_hf
from megacpt.device.groups import initialise_parallel
from megacpt.errors import CheckpointError
from megacpt.families import read_architecture
from megacpt.model.build import build_model
from megacpt.tokenizer import load_tokenizer


class Describe(Protocol):
    """Adds the model card of the checkpoint of a step to a folder; ``certified``: it will have a
    certificate."""

    def __call__(self, folder: Path, *, step: int, certified: bool = True) -> None: ...


def newest_checkpoint(run_dir: Path) -> Path:
    """Of the run, every byte of it read."""
    checkpoint = folders.newest(run_dir / "checkpoints", full=True, loud=True)
    if checkpoint is None:
        raise CheckpointError(
            f"{run_dir} has no complete checkpoint; run megacpt train on it first."
        )
    return checkpoint


def export_run(
    run_dir: Path,
    *,
    model: ModelConfig,
    dtype: Dtype,
    sequence_length: int,
    seed: int,
    kind: DeviceKind,
    output: Path,
    describe: Describe,
) -> Path:
    """Write ``output`` in this one process, a started rank; needs memory for the whole model.

    ``model``, ``dtype``, ``sequence_length`` and ``seed``: the run's."""
    checkpoint = newest_checkpoint(run_dir)
    base = Path(str(model.path))
    architecture = read_architecture(base, rope=model.rope)
    manifest = CheckpointManifest.read(checkpoint)
    require_architecture(manifest, architecture=asdict(architecture), folder=checkpoint)
    initialise_parallel(ParallelConfig(), seed=seed)
    chunks = build_model(
        architecture,
        parallel=ParallelConfig(),
        # The weights as they are: a recipe belongs to the run, not to what it has made.
        precision=PrecisionConfig(dtype=dtype),
        kind=kind,
        sequence_length=sequence_length,
    )
    state.load_model(checkpoint, chunks=chunks)
    tokenizer = load_tokenizer(base)
    return export_hf(
        chunks,
        architecture=architecture,
        source_folder=base,
        output=output,
        dtype=dtype,
        describe=lambda folder: _described(
            folder, describe=describe, step=manifest.step, run_dir=run_dir
        ),
        certify=lambda folder: write_certificate(
            chunks,
            architecture=architecture,
            folder=folder,
            tokenizer=tokenizer,
            base_model=named(model.path),
        ),
    )


def _described(folder: Path, *, describe: Describe, step: int, run_dir: Path) -> None:
    describe(folder, step=step)
    write_chat_template(run_dir, folder=folder)
