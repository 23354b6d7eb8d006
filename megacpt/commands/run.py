# SPDX-License-Identifier: Apache-2.0
"""The verbs that lead to a trained model: config, plan, train, launch, logs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import (
    Verb,
    config_of,
    run_dir_argument,
    same_settings,
    say,
    settings_arguments,
    shown,
)
from megacpt.commands.model import with_model, with_weights
from megacpt.config.hub_model import HubModel
from megacpt.errors import EndedOnRequest, MegacptError

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig
    from megacpt.device.environment import RankInfo
    from megacpt.plan.plan import Plan


def _config(arguments: argparse.Namespace) -> int:
    from megacpt.config.compose import render

    print(render(config_of(arguments)), end="")
    print(f"# Next: megacpt plan {same_settings(arguments)}".rstrip())
    return 0


CONFIG = Verb(
    name="config",
    summary="print the resolved configuration",
    example="  megacpt config experiment=tiny parallel.tp=2\n"
    "  megacpt config --config my.yaml optim.lr_peak=1e-5",
    add_arguments=settings_arguments,
    run=_config,
)


def _plan(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.prepare import checked
    from megacpt.files import write_text
    from megacpt.plan.learning_rate import rate_table

    found = checked(with_model(config_of(arguments)))
    config = found.config
    if config.adapter is not None and config.adapter.load_from is not None:
        _check_first_values(config)
    print(found.plan.render())
    if arguments.lr_table is not None:
        rows = rate_table(optim=config.optim, schedule=config.schedule, adapter=config.adapter)
        write_text(arguments.lr_table, text="".join(f"{row}\n" for row in rows))
    say("", next_command=f"megacpt train {same_settings(arguments)}".rstrip())
    return 0


def _advise(plan: Plan) -> None:
    """What the plan says of settings that often are mistakes, also where nobody asked for it."""
    for sentence in plan.advice:
        print(f"Advice: {sentence}", file=sys.stderr)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    settings_arguments(parser)
    parser.add_argument(
        "--lr-table", type=Path, metavar="FILE", help="write every step's learning rate there (TSV)"
    )


PLAN = Verb(
    name="plan",
    summary="show tokens, epochs, learning rates, memory and disk of a run; write nothing",
    example="  megacpt plan model.path=models/llama data.sources.law.prefix=data/law",
    add_arguments=_plan_arguments,
    run=_plan,
)


def _train(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.local import run_local
    from megacpt.cluster.prepare import check
    from megacpt.device.environment import rank_from_environment

    ranks = rank_from_environment()
    if ranks is not None:
        return train_as_rank(arguments, ranks=ranks)
    config = config_of(arguments)
    if not arguments.take_over:
        _require_free(config)
    config = _prepared(_ready(config, check=check))
    code = run_local(Path(config.run_dir), sections=config, mode=_mode(arguments))
    if code == 0:
        _say_trained(config)
    return code


def _prepared(config: RunConfig, *, num_ranks: int | None = None) -> RunConfig:
    """Write the run folder; the configuration as its run.yaml has it, the length in steps."""
    from megacpt.cluster.prepare import check, prepare

    if config.adapter is not None and config.adapter.load_from is not None:
        check(config, num_ranks=num_ranks)
        _check_first_values(config)
    _advise(prepare(config, num_ranks=num_ranks))
    return _as_written(config)


def _check_first_values(config: RunConfig) -> None:
    """PEFT's folder, by its tensors: settings that it has not are refused before the run folder
    holds them."""
    from megacpt.checkpoint import folders

    assert config.adapter is not None
    if folders.newest(Path(config.run_dir) / "checkpoints") is None:
        # It imports torch, so only where a run begins so.
        from megacpt.convert.adapters.begins import first_values
        from megacpt.families.targets import architecture_of_run

        first_values(
            Path(str(config.adapter.load_from)),
            base=Path(str(config.model.path)),
            architecture=architecture_of_run(config.model, adapter=config.adapter),
        )


def _as_written(config: RunConfig) -> RunConfig:
    from megacpt.config.compose import read_run_yaml
    from megacpt.config.paths import RunFolder

    return read_run_yaml(RunFolder(Path(config.run_dir)).run_yaml)


def _mode(arguments: argparse.Namespace) -> str:
    return "take_over" if arguments.take_over else "train"


def _require_free(config: RunConfig) -> None:
    """Before anything is written: the same run may be at work in its folder."""
    from megacpt.checkpoint.at_work import require_free
    from megacpt.plan.rules.faults import hang_minutes

    unseen = require_free(Path(config.run_dir), silent_s=60 * hang_minutes(config))
    if unseen is not None:
        print(f"Note: {unseen}", file=sys.stderr)


def train_as_rank(arguments: argparse.Namespace, *, ranks: RankInfo) -> int:
    """Started by torchrun or srun: this process is one rank. The first speaks for all."""
    from megacpt.device import variables
    from megacpt.train.rank import run_rank

    def begin() -> RunConfig:
        if not arguments.take_over:
            _require_free(config)
        return _prepared(config, num_ranks=ranks.world_size)

    try:
        config = with_model(config_of(arguments), online=False)
        variables.apply(config)
    except MegacptError as error:
        if ranks.rank == 0:
            raise
        return error.exit_code
    try:
        run_rank(
            config,
            ranks=ranks,
            mode=_mode(arguments),
            prepare=begin,
        )
    except EndedOnRequest as end:
        if ranks.rank == 0:
            raise
        return end.exit_code
    if ranks.rank == 0:
        _say_trained(_as_written(config))
    return 0


def _say_trained(config: RunConfig) -> None:
    folder = shown(config.run_dir)
    say(
        f"Trained {config.schedule.steps} steps:",
        f"  metrics      {folder}/metrics.jsonl",
        f"  checkpoints  {folder}/checkpoints",
        next_command=f"megacpt evaluate {folder}",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    settings_arguments(parser)
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="also from a start of the run that is at work: it ends at its next step",
    )


TRAIN = Verb(
    name="train",
    summary="train on this machine, or as one rank under torchrun or srun",
    example="  megacpt train experiment=tiny\n"
    "  megacpt train experiment=tiny parallel.tp=2 run_dir=runs/tiny_tp2\n"
    "The same command again resumes the run.",
    add_arguments=_train_arguments,
    run=_train,
)


def _launch(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.launch import dry_run, launch
    from megacpt.config.paths import RunFolder

    config = config_of(arguments)
    if arguments.prepare_only is not None:
        return _prepare_only(config, ranks=arguments.prepare_only)
    if arguments.dry_run:
        print(dry_run(with_model(config), python=sys.executable), end="")
        return 0
    config = _ready(config, check=lambda ready: dry_run(ready, python=sys.executable))
    launched = launch(config, python=sys.executable)
    _advise(launched.plan)
    for taken in launched.taken:
        print(f"Taken from your SBATCH_* variables: {taken}", file=sys.stderr)
    if launched.left_out:
        print(f"Not handed to the job: {', '.join(launched.left_out)}", file=sys.stderr)
    folder, run_dir = RunFolder(Path(config.run_dir)), shown(config.run_dir)
    say(
        f"Job {launched.job} is queued: {shown(launched.script)}",
        f"  watch   squeue --job={launched.job}; megacpt logs {run_dir}",
        f"  stop    echo save_and_exit > {run_dir}/request   (it saves first)",
        f"          scancel --name={launched.name}   (all jobs of the run)",
        "  extend  the same command again, with a longer schedule where that is wanted",
        next_command=f"tail -F {shown(folder.train_log)}",
    )
    return 0


def _ready(config: RunConfig, *, check: Callable[[RunConfig], object]) -> RunConfig:
    """With its model's weights here; what can be refused is, before they are downloaded."""
    ready = with_model(config)
    if HubModel.stored(str(ready.model.path)) is not None:
        check(ready)
        with_weights(ready)
    return ready


def _prepare_only(config: RunConfig, *, ranks: int) -> int:
    from megacpt.cluster.prepare import check, prepare
    from megacpt.config.paths import RunFolder

    config = _ready(config, check=lambda ready: check(ready, num_ranks=ranks))
    _advise(prepare(config, num_ranks=ranks))
    RunFolder(Path(config.run_dir)).logs.mkdir(exist_ok=True)
    print(config.run_dir)
    return 0


def _launch_arguments(parser: argparse.ArgumentParser) -> None:
    settings_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="check, print the batch script, write nothing"
    )
    parser.add_argument(
        "--prepare-only",
        type=int,
        metavar="RANKS",
        help="write the run folder for so many ranks and print its path (launch/train.sbatch)",
    )


LAUNCH = Verb(
    name="launch",
    summary="check a run, write its batch script and submit it to Slurm",
    example="  megacpt launch experiment=tiny cluster=slurm cluster.device=cpu\n"
    "  megacpt launch --config law.yaml cluster=slurm cluster.nodes=4 \\\n"
    "      cluster.gpus_per_node=8 cluster.slurm.partition=gpu --dry-run\n"
    "The same command again goes on from the newest checkpoint.",
    add_arguments=_launch_arguments,
    run=_launch,
)


def _logs(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.logs import read_logs, timeline

    found = read_logs(arguments.run_dir)
    for line in timeline(found.history):
        print(line)
    if found.cause is not None:
        print(f"The first error of the last start:\n{found.cause.text.rstrip()}")
    elif not found.history.starts:
        print("No rank has left an error.")
    files = sorted(path.name for path in found.logs.glob("*.log"))
    say(
        f"Logs, in {shown(found.logs)}: {', '.join(files) or 'none'}",
        next_command=f"tail -F {shown(found.logs / files[-1])}" if files else "megacpt train",
    )
    return 0


LOGS = Verb(
    name="logs",
    summary="show the starts of a run, its first error and where its logs are",
    example="  megacpt logs runs/law",
    add_arguments=run_dir_argument,
    run=_logs,
)
