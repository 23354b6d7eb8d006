# SPDX-License-Identifier: Apache-2.0
"""The verb sft: tune a run's model on conversations, in a run folder of its own."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, run_dir_argument, say, shown
from megacpt.commands.run import TRAIN
from megacpt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig
    from megacpt.plan.tuning import SftRequest
    from megacpt.shards.manifest import Manifest

SETTINGS = "sft.yaml"
"""In the new run folder."""


def _sft(arguments: argparse.Namespace) -> int:
    from megacpt.config.compose import compose, read_run_yaml, render
    from megacpt.config.paths import with_contracted_paths
    from megacpt.files import write_text
    from megacpt.plan.tuning import tuned

    _require_one_process()
    run = read_run_yaml(arguments.run_dir / "run.yaml")
    tuning = _tuning(arguments, run_dir=Path(run.run_dir))
    file = tuning.run_dir / SETTINGS
    write_text(file, text=render(with_contracted_paths(tuned(run, tuning=tuning))))
    config = compose(arguments.overrides, config_file=file)
    packed = list(_pack(config))
    for line in _account(config, tuning=tuning, run=arguments.run_dir, file=file):
        print(line)
    for path in packed:
        print(f"  packed    {shown(path)}")
    if arguments.prepare_only:
        words = ["megacpt", "train", "--config", shown(file), *arguments.overrides]
        say(next_command=shlex.join(words))
        return 0
    trained = argparse.Namespace(
        overrides=arguments.overrides, config=file, config_dir=None, take_over=False
    )
    return TRAIN.run(trained)


def _require_one_process() -> None:
    """Ranks would write the same settings and rows side by side."""
    from megacpt.device.environment import rank_from_environment

    ranks = rank_from_environment()
    if ranks is not None and ranks.world_size > 1:
        raise ConfigError(
            f"megacpt sft was started as {ranks.world_size} ranks, but one process writes the "
            "settings and packs the rows; start it once with --prepare-only, and then, by torchrun "
            "or srun, the command that it prints."
        )


def _tuning(arguments: argparse.Namespace, *, run_dir: Path) -> SftRequest:
    from megacpt.plan.tuning import SftRequest

    tokens = _conversations(arguments.data, option="--data").tokens
    if arguments.heldout:
        _conversations(arguments.heldout, option="--heldout")
    if any(word.startswith("run_dir=") for word in arguments.overrides):
        raise ConfigError("run_dir is not set here; name the new run's folder with --output.")
    ending = "-base-sft" if arguments.base else "-sft"
    return SftRequest(
        run_dir=(arguments.output or run_dir.with_name(run_dir.name + ending)).absolute(),
        shard=arguments.data.absolute(),
        tokens=tokens,
        heldout=arguments.heldout.absolute() if arguments.heldout else None,
        from_base=arguments.base,
    )


def _conversations(prefix: Path, *, option: str) -> Manifest:
    from megacpt.shards.manifest import read_shard_manifest

    manifest = read_shard_manifest(prefix)
    if manifest is None or not manifest.is_chat:
        raise DataError(
            f"{option} {prefix} is no shard of conversations (it has no mask of what the "
            "assistant says); write one with megacpt tokenize --chat."
        )
    return manifest


def _pack(config: RunConfig) -> Iterator[Path]:
    """Make the rows of each source that has none, or those of another shard."""
    from megacpt.shards.packing import PackedShard, build_packing
    from megacpt.shards.reader import IndexedShard

    length = config.data.sequence_length
    for source in config.data.sources.values():
        if source.prefix is None:
            continue
        try:
            PackedShard.open(source.prefix, sequence_length=length)
        except DataError:
            yield build_packing(IndexedShard(source.prefix), sequence_length=length)


def _account(config: RunConfig, *, tuning: SftRequest, run: Path, file: Path) -> Iterator[str]:
    optim, schedule, data = config.optim, config.schedule, config.data
    begins = "its base model" if tuning.from_base else "its newest checkpoint"
    length = f"{schedule.epochs:g} epochs" if schedule.epochs else f"{schedule.steps} steps"
    warmup = (
        f"{schedule.warmup_fraction:.0%} of the steps"
        if schedule.warmup_fraction is not None
        else f"{schedule.warmup_steps} steps"
    )
    yield f"Tunes {shown(run)} ({begins}) on {shown(tuning.shard)}:"
    rows = f"{data.global_batch_size} rows of {data.sequence_length:,} tokens"
    yield f"  length    {length}, {rows} a step"
    yield f"  rate      {optim.lr_peak:g}, {schedule.shape.value}, after a warmup of {warmup}"
    yield f"  trains    {'an adapter' if config.adapter else 'all weights'}"
    yield f"  settings  {shown(file)}"


def _sft_arguments(parser: argparse.ArgumentParser) -> None:
    run_dir_argument(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="a setting, as in optim.lr_peak=2e-5"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PREFIX",
        help="conversations, written by megacpt tokenize --chat",
    )
    parser.add_argument(
        "--heldout",
        type=Path,
        metavar="PREFIX",
        help="conversations to measure, as evaluate.domain",
    )
    parser.add_argument(
        "--base", action="store_true", help="begin with the run's base model, to compare with"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="the new run folder (default: RUN_DIR-sft, with --base RUN_DIR-base-sft)",
    )
    parser.add_argument(
        "--prepare-only",
        action="store_true",
        help="write its settings and print how to train it, as under torchrun or Slurm",
    )


SFT = Verb(
    name="sft",
    summary="tune a run's model on conversations",
    example="  megacpt sft runs/law --data data/chat --heldout data/chat-heldout\n"
    "  megacpt sft runs/law --data data/chat --heldout data/chat-heldout --base\n"
    "  megacpt sft runs/law --data data/chat adapter=lora optim.lr_peak=1e-4 --base\n"
    "The same command again resumes the run.",
    add_arguments=_sft_arguments,
    run=_sft,
)
