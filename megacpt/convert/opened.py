# SPDX-License-Identifier: Apache-2.0
"""What a path names that holds a model's weights: a Hugging Face folder, a checkpoint, a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megacpt.checkpoint import folders
from megacpt.checkpoint.manifest import MANIFEST
from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder
from megacpt.convert.adapters.merged import merged
from megacpt.convert.adapters.read import peft_folder
from megacpt.convert.conversion import DESCRIBED
from megacpt.convert.foreign.kinds import KINDS, foreign_source
from megacpt.convert.native.reader import native_checkpoint
from megacpt.convert.sources import SourceModel, hugging_face
from megacpt.errors import CheckpointError, ModelError
from megacpt.families import read_architecture
from megacpt.families.peft_settings import PEFT_SETTINGS, stated_settings
from megacpt.families.stored.files import has_weights


def open_source(path: Path, *, base: Path | None = None) -> SourceModel:
    """Of a run the newest checkpoint; an adapter as merged into its model. ``base``: the Hugging
    Face folder that describes a checkpoint, where neither its own folder nor its run does, or that
    an adapter is beside.

    ``ModelError`` or ``CheckpointError`` say what is missing, damaged or not known.
    """
    found = open_trained(path, base=base)
    if found is not None:
        return found if found.architecture.adapter is None else beside_base(found)
    is_hf = (path / "config.json").is_file()
    # Whoever trains with DeepSpeed may have gathered the weights beside its states.
    if not (is_hf and has_weights(path)):
        foreign = foreign_source(path, base=base)
        if foreign is not None:
            return foreign
    if is_hf:
        return hugging_face(path, architecture=read_architecture(path))
    what = "does not exist" if not path.exists() else "is none of these"
    raise ModelError(
        f"{path} {what}: a Hugging Face folder (config.json and *.safetensors), a checkpoint "
        f"({MANIFEST}), a run folder (run.yaml), or a checkpoint of {KINDS}; name one."
    )


def open_trained(path: Path, *, base: Path | None = None) -> SourceModel | None:
    """A checkpoint, a run or PEFT's folder, an adapter as it is; ``None`` for any other."""
    if (path / MANIFEST).is_file():
        return native_checkpoint(path, described_by=base or description_of(path))
    if RunFolder(path).run_yaml.is_file():
        return _of_run(path, base=base)
    if (path / PEFT_SETTINGS).is_file():
        return peft_folder(path, base=base or _base_of(path))
    return None


def beside_base(source: SourceModel) -> SourceModel:
    """An adapter merged into the model whose folder describes it."""
    folder = source.described_by
    plain = replace(source.architecture, adapter=None)
    return merged(source, base=hugging_face(folder, architecture=plain))


def _base_of(peft: Path) -> Path:
    stated = stated_settings(peft).get("base_model_name_or_path")
    if stated and (Path(stated) / "config.json").is_file():
        return Path(stated)
    raise ModelError(
        f"{peft} is PEFT's folder of an adapter, whose base model, {stated}, is no folder here; "
        "name it with --base MODEL."
    )


def _of_run(run_dir: Path, *, base: Path | None) -> SourceModel:
    folder = folders.newest(run_dir / "checkpoints")
    if folder is None:
        raise CheckpointError(f"{run_dir} has no complete checkpoint; train it first.")
    return native_checkpoint(folder, described_by=base or description_of(folder))


def description_of(checkpoint: Path) -> Path:
    """The folder with config.json and tokenizer of the model that a checkpoint is of."""
    own = checkpoint / DESCRIBED
    if (own / "config.json").is_file():
        return own
    run_yaml = RunFolder(checkpoint.parent.parent).run_yaml
    stated = read_run_yaml(run_yaml).model.path if run_yaml.is_file() else None
    if stated is not None and (Path(stated) / "config.json").is_file():
        return Path(stated)
    where = f"its run's model, {stated}, is not there" if stated else "it lies without its run"
    raise CheckpointError(
        f"{checkpoint} does not say which model it is of ({where}); name the Hugging Face folder "
        "it was trained from with --base FOLDER."
    )
