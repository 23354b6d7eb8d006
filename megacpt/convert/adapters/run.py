# SPDX-License-Identifier: Apache-2.0
"""The adapter that a run has trained, as PEFT's folder."""

from __future__ import annotations

from pathlib import Path

from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.config.sections import Init, ModelConfig, ParallelConfig
from megacpt.convert.adapters.export import PeftFolder, base_name, export_adapter
from megacpt.convert.chat import write_chat_template
from megacpt.convert.native.reader import native_checkpoint
from megacpt.convert.run import Describe, newest_checkpoint
from megacpt.device.groups import initialise_parallel
from megacpt.errors import ModelError


def export_trained_adapter(
    run_dir: Path, *, model: ModelConfig, seed: int, output: Path, describe: Describe
) -> bool:
    """Write ``output`` in this one process, a started rank; whether PEFT has certified it.

    ``model``, ``seed``: the run's."""
    checkpoint = newest_checkpoint(run_dir)
    base = Path(str(model.path))
    if model.init is Init.random:
        raise ModelError(
            f"{run_dir} began with random weights (model.init=random), beside which its "
            "adapter is of no use to anybody; train it on a model with weights (model.path=FOLDER)."
        )
    if model.rope is not None:
        raise ModelError(
            f"{run_dir} has other rotary positions than its base model (model.rope), for "
            "which PEFT's folder has no place; write a whole model: megacpt merge --adapter "
            f"{run_dir} --output FOLDER."
        )
    initialise_parallel(ParallelConfig(), seed=seed)
    step = CheckpointManifest.read(checkpoint).step

    def described(folder: Path, *, certified: bool) -> None:
        describe(folder, step=step, certified=certified)
        write_chat_template(run_dir, folder=folder)

    return export_adapter(
        PeftFolder(
            source=native_checkpoint(checkpoint, described_by=base),
            output=output,
            base_model=base_name(base),
            describe=described,
        )
    )
