# SPDX-License-Identifier: Apache-2.0
"""The verbs about what this machine and this megacpt can do: doctor, families, completion."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from megacpt.commands.common import Verb, say

NOT_WELL = 1


def _doctor(arguments: argparse.Namespace) -> int:
    from megacpt.preflight.doctor import diagnose, passes, screen

    results = diagnose(arguments.folder.absolute())
    print(screen(results))
    if not passes(results):
        return NOT_WELL
    say(next_command="megacpt train experiment=tiny")
    return 0


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where runs will be written; its space and speed are measured (default: here)",
    )


DOCTOR = Verb(
    name="doctor",
    summary="check this machine: packages, memory, disk, GPUs, Slurm, clock, network",
    example="  megacpt doctor /shared/runs\nExit code 1: something is marked FAIL.",
    add_arguments=_doctor_arguments,
    run=_doctor,
)


def _families(arguments: argparse.Namespace) -> int:
    from megacpt.families.stored.nearest import MISSING
    from megacpt.plan.families import families_text, family_rows

    rows = family_rows()
    if arguments.json:
        found = {"families": [asdict(row) for row in rows], "refused": dict(MISSING)}
        print(json.dumps(found, indent=2))
        return 0
    print(families_text(rows))
    say(next_command="megacpt plan model.path=FOLDER data.sources.NAME.prefix=SHARD")
    return 0


def _families_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, with the reason of each no")


FAMILIES = Verb(
    name="families",
    summary="list the models that can be trained, and on which layouts",
    example="  megacpt families --json",
    add_arguments=_families_arguments,
    run=_families,
)


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["megacpt"], shell=arguments.shell))
    return 0


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


COMPLETION = Verb(
    name="completion",
    summary="print the script that completes megacpt in your shell",
    example='  eval "$(megacpt completion bash)"      # in ~/.bashrc\n'
    "  megacpt completion fish > ~/.config/fish/completions/megacpt.fish",
    add_arguments=_completion_arguments,
    run=_completion,
)
