# SPDX-License-Identifier: Apache-2.0
"""Check all that can be checked before any process starts, then write the run folder.

``check`` only reads. ``prepare`` also writes RUN_DIR/run.yaml, plan.json and the generated token
shards; doing it again for the same run changes nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.checkpoint import base_checkpoint, folders
from megacpt.checkpoint.base_checkpoint import BaseCheckpoint, UpdateSettings
from megacpt.checkpoint.manifest import (
    CheckpointManifest,
    require_architecture,
    require_base,
)
from megacpt.cluster.conversations import chat_template_of
from megacpt.cluster.data import check_prompts, check_questions, open_data
from megacpt.config.compose import read_run_yaml, require_same_run, write_run_yaml
from megacpt.config.hub_model import HubModel
from megacpt.config.paths import RunFolder, heldout_shards, source_shards
from megacpt.config.sections import (
    HeldoutConfig,
    Init,
    ModelConfig,
    RunConfig,
    SampleOrder,
    SourceConfig,
    SyntheticConfig,
)
from megacpt.device.environment import beginning_with, has_secret
from megacpt.device.packages import require_packages
from megacpt.device.variables import notes
from megacpt.errors import ConfigError, DataError, EnvironmentError_, ModelError, Violation
from megacpt.evaluate.benchmarks.tasks import load_suite
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.families.packing import PACKAGES
from megacpt.families.stored.fingerprint import base_of_run
from megacpt.families.stored.places import require_parts, storage_notes
from megacpt.families.targets import with_adapter
from megacpt.files import write_text
from megacpt.monitor.wandb_variables import choose_mode
from megacpt.plan.check import violations
from megacpt.plan.learning_rate import first_difference, learning_rate
from megacpt.plan.optimizers import OPTIMIZERS
from megacpt.plan.plan import Plan, make_plan
from megacpt.plan.rules.adapter import load_from_violations
from megacpt.plan.run_length import length_sentences, with_steps
from megacpt.plan.segments import Segment, own
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import epoch_samples, segments_of
from megacpt.shards.manifest import curated_of, require_own
from megacpt.shards.reader import IndexedShard
from megacpt.shards.synthetic import documents, ensure_shard
from megacpt.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    architecture: Architecture
    """Without an adapter."""
    tokenizer: Tokenizer
    notes: tuple[str, ...]
    """What is odd about its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    config: RunConfig
    """With the length and the warmup of the run in steps."""
    plan: Plan
    tokenizer: Tokenizer
    base: BaseCheckpoint | None


def check(config: RunConfig, *, num_ranks: int | None = None, launched: bool = False) -> Plan:
    """Everything that can be known without starting a rank; writes nothing."""
    return checked(config, num_ranks=num_ranks, launched=launched).plan


def checked(config: RunConfig, *, num_ranks: int | None = None, launched: bool = False) -> Checked:
    """``check``, and the configuration that it has resolved.

    ``num_ranks``: how many torchrun or srun has started, where one of them has; ``launched``: a job
    of ``cluster.nodes`` will be asked for.
    """
    model, problem = _read_model(config.model)
    architecture = model.architecture if model else None
    found = violations(
        config,
        architecture=architecture,
        tokenizer=model.tokenizer if model else None,
        num_ranks=num_ranks,
        launched=launched,
    )
    _require_rules(found)
    if model is None:
        raise problem or ModelError(f"model.path={config.model.path} cannot be read.")
    return _checked(config, model=model)


def _checked(asked: RunConfig, *, model: _Model) -> Checked:
    """What needs the model, the shards and what the run has done."""
    architecture = with_adapter(model.architecture, settings=asked.adapter)
    tokens = _source_tokens(asked, tokenizer=model.tokenizer)
    base = base_checkpoint.find(asked.checkpoint, run_dir=Path(asked.run_dir))
    record = _data_record(asked, base=base)
    config = _with_steps(asked, tokens=tokens, record=record)
    _require_rules(violations(config, architecture=architecture, shard_tokens=tokens))
    _check_heldout(config, tokenizer=model.tokenizer)
    check_questions(config.evaluate.usefulness)
    check_prompts(
        config.evaluate.prompts,
        tokenizer=model.tokenizer,
        vocab_size=architecture.vocab_size,
    )
    _check_place(Path(config.run_dir))
    _check_schedule(config)
    _check_model(config, architecture=architecture)
    settings = _update_settings(config)
    if base is not None:
        _check_start(config, base=base, architecture=architecture)
    odd = open_data(config, vocab_size=architecture.vocab_size, record=record)
    require_same_run(config, path=RunFolder(Path(config.run_dir)).run_yaml)
    _require_packages(config)
    _check_benchmarks(config)
    plan = make_plan(
        config,
        architecture=architecture,
        source_tokens=tokens,
        segments=own(_segments(config, record=record)),
    )
    begins = (
        tuple(base_checkpoint.sentences(base, settings=settings, architecture=architecture))
        if base
        else ()
    )
    length = tuple(length_sentences(asked.schedule, data=config.data, schedule=config.schedule))
    stored = HubModel.stored(config.model.path or "")
    plan = replace(
        plan,
        begins=begins,
        length=length,
        advice=(*plan.advice, *odd, *model.notes),
        hub_model=str(stored) if stored else None,
        curated={
            name: tuple(replace(origin, inputs=()) for origin in curated_of(source.prefix))
            for name, source in config.data.sources.items()
        },
    )
    return Checked(config=config, plan=plan, tokenizer=model.tokenizer, base=base)


def _require_packages(config: RunConfig) -> None:
    chosen = config.optim.optimizer
    require_packages(
        f"optim.optimizer={chosen.value}",
        packages=OPTIMIZERS[chosen].packages,
        remedy=f"use Python 3.12 or newer and pip install 'megacpt[{chosen.value}]', or "
        "optim.optimizer=adamw",
    )
    packing = config.adapter.base if config.adapter else None
    if packing is not None:
        require_packages(
            f"adapter.base={packing.name}",
            packages=PACKAGES[packing],
            remedy=f"pip install 'megacpt[{packing.name}]', or use adapter.base=null",
        )


def _check_benchmarks(config: RunConfig) -> None:
    """Load them as the first rank will, so that no run ends over a name or data it cannot read."""
    for name, benchmark in config.evaluate.benchmarks.items():
        load_suite(name, config=benchmark, execute_code=config.evaluate.execute_code)


def _update_settings(config: RunConfig) -> UpdateSettings:
    return UpdateSettings(
        optim=config.optim, schedule=config.schedule, dtype=config.precision.dtype
    )


def _with_steps(
    config: RunConfig, *, tokens: Mapping[str, int], record: dict[str, Any] | None
) -> RunConfig:
    if not config.schedule.is_open:
        return config
    schedule = with_steps(
        config.schedule,
        data=config.data,
        segments=own(_segments(config, record=record)),
        epoch_samples=lambda name, length: epoch_samples(
            config.data, name=name, num_tokens=tokens[name], sequence_length=length
        ),
    )
    return replace(config, schedule=schedule)


def prepare(config: RunConfig, *, num_ranks: int | None = None, launched: bool = False) -> Plan:
    """Check, then write what the ranks read."""
    found = checked(config, num_ranks=num_ranks, launched=launched)
    config, plan = found.config, found.plan
    folder = RunFolder(Path(config.run_dir))
    if not launched:  # There, cluster.slurm.setup may say more.
        choose_mode(
            config.monitor.wandb,
            has_api_key=has_secret("WANDB_API_KEY"),
            variables=beginning_with("WANDB_"),
        )
    _check_writable(folder.root)
    if found.base is not None:
        found.base.remember(folder.root)
    write_run_yaml(config, path=folder.run_yaml, notes=[*plan.length, *notes(config)])
    template = chat_template_of(config)
    if template is not None:
        write_text(folder.chat_template, text=template)
    for prefix, synthetic in _generated(config).items():
        ensure_shard(prefix, config=synthetic, tokenizer=found.tokenizer)
    write_text(folder.plan_json, text=json.dumps(plan.to_json(), indent=2) + "\n")
    return plan


def _data_record(config: RunConfig, *, base: BaseCheckpoint | None) -> dict[str, Any] | None:
    """What was drawn before the run goes on."""
    if base is not None:
        return base.data_record(config.data, seed=config.seed)
    return folders.newest_data(Path(config.run_dir) / "checkpoints") or None


def _segments(config: RunConfig, *, record: dict[str, Any] | None) -> tuple[Segment, ...]:
    """What the run draws; ConfigError where its checkpoint has drawn something else."""
    return segments_of(config.data, past=DataRecord.from_json(record) if record else None)


def _require_rules(broken: list[Violation]) -> None:
    if broken:
        raise ConfigError(broken)


def _read_model(model: ModelConfig) -> tuple[_Model | None, ModelError | None]:
    """The model's facts or what is wrong with it; a path that is not set is a rule's business."""
    if not model.path:
        return None, None
    folder = Path(model.path)
    try:
        architecture = read_architecture(folder, rope=model.rope)
        notes: Iterable[str] = ()
        if model.init is Init.random:
            require_parts(folder)
        else:
            notes = storage_notes(folder, architecture=architecture)
        return _Model(
            architecture=architecture, tokenizer=load_tokenizer(folder), notes=tuple(notes)
        ), None
    except ModelError as error:
        return None, error


def _source_tokens(config: RunConfig, *, tokenizer: Tokenizer) -> dict[str, int]:
    return {
        name: _tokens(source, path=f"data.sources.{name}", tokenizer=tokenizer)
        for name, source in config.data.sources.items()
    }


def _check_heldout(config: RunConfig, *, tokenizer: Tokenizer) -> None:
    for name, heldout in config.evaluate.heldout.items():
        tokens = _tokens(heldout, path=f"evaluate.heldout.{name}", tokenizer=tokenizer)
        if tokens < 2:
            raise DataError(
                f"evaluate.heldout.{name} holds {tokens} tokens, but a loss needs at least 2; "
                "hold out more text."
            )


def _tokens(item: SourceConfig | HeldoutConfig, *, path: str, tokenizer: Tokenizer) -> int:
    """Tokens of a shard that fits the model's tokenizer, or of what will be generated."""
    if item.synthetic is not None:
        texts = list(documents(item.synthetic))
        return sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
    prefix = str(item.prefix)
    for ending in (".bin", ".idx"):
        if not Path(prefix + ending).is_file():
            raise DataError(
                f"{path}.prefix={prefix} is no token shard: {prefix}{ending} does not exist; "
                "write it with megacpt tokenize, and give the path without its ending."
            )
    require_own(prefix, tokenizer=tokenizer)
    tokens = IndexedShard(prefix).num_tokens
    if tokens == 0:
        raise DataError(f"{path}.prefix={prefix} holds no tokens; tokenize text that is not empty.")
    return tokens


def _check_model(config: RunConfig, *, architecture: Architecture) -> None:
    """A run goes on with the model that its checkpoints are of; one that has none begins with what
    its settings name."""
    newest = folders.newest(RunFolder(Path(config.run_dir)).root / "checkpoints")
    if newest is None:
        _require_rules(list(load_from_violations(config.adapter)))
        return
    manifest = CheckpointManifest.read(newest)
    require_architecture(manifest, architecture=asdict(architecture), folder=newest)
    _require_base(config, manifest=manifest, folder=newest)


def _check_start(config: RunConfig, *, base: BaseCheckpoint, architecture: Architecture) -> None:
    """A run begins with a checkpoint of its own model."""
    base_checkpoint.require_fit(
        base,
        architecture=architecture,
        settings=_update_settings(config),
        new_rope=config.model.rope is not None,
    )
    if base.load.weights:
        _require_base(config, manifest=base.manifest, folder=base.folder)


def _require_base(config: RunConfig, *, manifest: CheckpointManifest, folder: Path) -> None:
    """Of an adapter, which may go into a run of all weights."""
    base = base_of_run(config.model, adapter=manifest.base is not None)
    require_base(manifest, base=base, model=config.model.path, folder=folder)


def _check_schedule(config: RunConfig) -> None:
    """Steps done keep the learning rate they had, and with it what the run has learnt."""
    folder = RunFolder(Path(config.run_dir))
    newest = folders.newest(folder.root / "checkpoints")
    if newest is None or not folder.run_yaml.exists():
        return
    old, done = read_run_yaml(folder.run_yaml), CheckpointManifest.read(newest).step
    step = first_difference(
        (old.optim, old.schedule), new=(config.optim, config.schedule), steps=done
    )
    if step is not None:
        was, now = (learning_rate(step, optim=c.optim, schedule=c.schedule) for c in (old, config))
        raise ConfigError(
            f"schedule changes what was done: step {step} of the {done} in {newest} used the "
            f"learning rate {was:.3g}, now it would be {now:.3g}. Set the schedule back; or start "
            "a new run with checkpoint.load_from, and schedule.lr_start_fraction where this one "
            "ended. The constant shape, and wsd before its decay, can be extended."
        )
    if config.data.order is SampleOrder.megatron and config.schedule.steps != old.schedule.steps:
        raise ConfigError(
            f"schedule.steps={config.schedule.steps} was {old.schedule.steps}, and with "
            "data.order=megatron the number of steps decides the order of samples; set it back."
        )


def _check_place(folder: Path) -> None:
    """The folder that the run folder lies in, or will, without writing to it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written to" if place.is_dir() else "is no folder"
        raise EnvironmentError_(
            f"run_dir={folder} cannot be written: {place} {why}; "
            "choose a folder with write permission and free space."
        )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentError_(
            f"run_dir={folder} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space."
        ) from error


def _generated(config: RunConfig) -> dict[str, SyntheticConfig]:
    """Shard prefix -> what to generate there."""
    sources, heldout = source_shards(config), heldout_shards(config)
    wanted = {sources[n]: s.synthetic for n, s in config.data.sources.items()}
    wanted |= {heldout[n]: h.synthetic for n, h in config.evaluate.heldout.items()}
    return {prefix: synthetic for prefix, synthetic in wanted.items() if synthetic is not None}
