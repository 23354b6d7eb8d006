# SPDX-License-Identifier: Apache-2.0
"""The verbs of what a run has made: checkpoints, export, report."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, run_dir_argument, say, shown, slow_progress
from megacpt.commands.model import as_asked, model_of_run, one_rank
from megacpt.config.hub_model import HubModel
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError

if TYPE_CHECKING:
    from megacpt.checkpoint.listing import Listing
    from megacpt.config.sections import RunConfig

DAMAGED = 1


def _checkpoints(arguments: argparse.Namespace) -> int:
    from megacpt.checkpoint.listing import list_checkpoints, prune_listed
    from megacpt.checkpoint.retention import loss_of, retention_of
    from megacpt.config.compose import read_run_yaml
    from megacpt.monitor.checkpoints_text import listing_text

    run_dir = arguments.run_dir
    if arguments.diff is not None:
        first, second = arguments.diff
        return _compare(run_dir, first=first, second=second, weights=arguments.weights)
    if arguments.weights:
        raise ConfigError("--weights belongs to --diff STEP STEP; name the two checkpoints.")
    config = read_run_yaml(run_dir / "run.yaml")
    best_of = loss_of(config.evaluate)
    policy = retention_of(config.checkpoint, best_of=best_of)
    if arguments.keep_last is not None:
        last = _at_least(arguments.keep_last, least=1, name="--keep-last")
        policy = replace(policy, keep_last=last)
    if arguments.keep_every_steps is not None:
        every = _at_least(arguments.keep_every_steps, least=0, name="--keep-every-steps")
        policy = replace(policy, keep_every_steps=every)
    progress = slow_progress("checksums") if arguments.verify else None
    listing = list_checkpoints(
        run_dir, policy=policy, loss_of=best_of, full=arguments.verify, progress=progress
    )
    if arguments.prune:
        listing = prune_listed(listing, policy=policy)
    print(listing_text(listing))
    say(next_command=_after_checkpoints(listing, run_dir=shown(run_dir)))
    return DAMAGED if listing.damaged else 0


def _compare(run_dir: Path, *, first: int, second: int, weights: bool) -> int:
    from megacpt.checkpoint.difference import compare, folder_of_step
    from megacpt.monitor.checkpoints_text import WEIGHTS_HEADER, difference_text, weight_line

    rows = compare(run_dir, first=first, second=second)
    print(difference_text(rows, first=first, second=second))
    if weights:
        # It imports torch, so only where it is asked for.
        from megacpt.checkpoint.weight_change import weight_changes

        print(WEIGHTS_HEADER)
        before, after = (folder_of_step(run_dir, step=step) for step in (first, second))
        # A line as soon as it is known: a large model's weights take a while to read.
        for change in weight_changes(before, second=after):
            print(weight_line(change), flush=True)
    say(next_command=f"megacpt checkpoints {shown(run_dir)} --verify")
    return 0


def _after_checkpoints(listing: Listing, *, run_dir: str) -> str:
    if not listing.found:
        return f"megacpt train --config {run_dir}/run.yaml"
    if listing.newest is None:
        return "bring one back from a copy; or move them away, to begin at the base model"
    if listing.damaged:
        return f"megacpt checkpoints {run_dir} --prune"
    if not listing.verified:
        return f"megacpt checkpoints {run_dir} --verify"
    return f"megacpt evaluate {run_dir}"


def _at_least(value: int, *, least: int, name: str) -> int:
    if value < least:
        raise ConfigError(f"{name}={value} is below {least}; use {least} or more.")
    return value


def _checkpoints_arguments(parser: argparse.ArgumentParser) -> None:
    run_dir_argument(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read every byte and compare it with its checksum"
    )
    parser.add_argument(
        "--prune", action="store_true", help="delete what need not be kept, and what is damaged"
    )
    parser.add_argument("--keep-last", type=int, metavar="N", help="instead of the run's own")
    parser.add_argument(
        "--keep-every-steps", type=int, metavar="N", help="instead of the run's own"
    )
    parser.add_argument(
        "--diff", type=int, nargs=2, metavar="STEP", help="show what lies between two of them"
    )
    parser.add_argument(
        "--weights", action="store_true", help="with --diff: how far each weight has moved"
    )


CHECKPOINTS = Verb(
    name="checkpoints",
    summary="list, verify, compare and prune the checkpoints of a run",
    example="  megacpt checkpoints runs/tiny --verify\n"
    "  megacpt checkpoints runs/tiny --diff 16 24 --weights\n"
    "  megacpt checkpoints runs/tiny --keep-last 1            # what would stay\n"
    "  megacpt checkpoints runs/tiny --keep-last 1 --prune\n"
    "Exit code 1: one of them is damaged.",
    add_arguments=_checkpoints_arguments,
    run=_checkpoints,
)


def _export(arguments: argparse.Namespace) -> int:
    config = model_of_run(arguments.run_dir, weights=False)
    if config.adapter is not None:
        return _export_adapter(arguments, config=config)
    output = arguments.output or RunFolder(arguments.run_dir).export_of(adapter=False)
    model = _export_on_cpu(config, run_dir=arguments.run_dir, output=output)
    say(
        f"Wrote the Hugging Face folder {shown(output)}",
        *([f"  the base model is {model}"] if model is not None else []),
        f"  its logits against the native model's: {shown(output)}/certificate.json",
        next_command=f"megacpt report {shown(arguments.run_dir)}",
    )
    return 0


def _export_adapter(arguments: argparse.Namespace, *, config: RunConfig) -> int:
    config = model_of_run(arguments.run_dir, weights=True)
    output = arguments.output or RunFolder(arguments.run_dir).export_of(adapter=True)
    with one_rank():
        from megacpt.convert.adapters.run import export_trained_adapter
        from megacpt.monitor.card import write_card

        describe = partial(write_card, run_dir=arguments.run_dir, config=config)

        certified = export_trained_adapter(
            Path(config.run_dir),
            model=config.model,
            seed=config.seed,
            output=output,
            describe=describe,
        )
    proof = f"  its logits in PEFT against the native model's: {shown(output)}/certificate.json"
    unproven = "  not compared with PEFT, which is not installed: pip install peft"
    say(
        f"Wrote the PEFT folder {shown(output)}",
        f"  beside the model {as_asked(Path(str(config.model.path)))}",
        proof if certified else unproven,
        *_of_packed(config),
        next_command=shlex.join(
            [
                *("megacpt", "merge", "--adapter", shown(arguments.run_dir)),
                *("--output", shown(output.with_name("merged"))),
            ]
        ),
    )
    return 0


def _of_packed(config: RunConfig) -> list[str]:
    packed = config.adapter.base if config.adapter else None
    if packed is None:
        return []
    return [f"  trained and measured beside weights kept in {packed.name}, not the plain ones here"]


def _export_on_cpu(config: RunConfig, *, run_dir: Path, output: Path) -> HubModel | None:
    """Returns the model of the hub that was trained, if it is one."""
    with one_rank() as runtime:
        from megacpt.convert.run import export_run
        from megacpt.monitor.card import write_card

        describe = partial(write_card, run_dir=run_dir, config=config)
        export_run(
            Path(config.run_dir),
            model=config.model,
            dtype=config.precision.dtype,
            sequence_length=config.data.sequence_length,
            seed=config.seed,
            kind=runtime.kind,
            output=output,
            describe=describe,
        )
    return HubModel.stored(str(config.model.path))


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    run_dir_argument(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: RUN_DIR/hf, of an adapter RUN_DIR/adapter)",
    )


EXPORT = Verb(
    name="export",
    summary="write the newest checkpoint for transformers or PEFT, with a certificate",
    example="  megacpt export runs/tiny --output models/tiny-adapted",
    add_arguments=_export_arguments,
    run=_export,
)


def _report(arguments: argparse.Namespace) -> int:
    from megacpt.monitor.report import write_report

    write_report(arguments.run_dir)
    folder = shown(arguments.run_dir)
    say(
        f"Wrote {folder}/report.html and {folder}/report.json",
        next_command=f"open {folder}/report.html in a browser",
    )
    return 0


REPORT = Verb(
    name="report",
    summary="write report.json and a single-file report.html",
    example="  megacpt report runs/tiny",
    add_arguments=run_dir_argument,
    run=_report,
)
