# SPDX-License-Identifier: Apache-2.0
"""The verb for those who come from another trainer: import-config."""

from __future__ import annotations

import argparse
from pathlib import Path

from megacpt.commands.common import Verb, say, shown
from megacpt.errors import ConfigError


def _import(arguments: argparse.Namespace) -> int:
    from megacpt.config.imported import import_config
    from megacpt.files import write_text

    source: Path = arguments.file
    output: Path = arguments.output or Path(f"{source.stem}.megacpt.yaml")
    if output.exists():
        raise ConfigError(f"{output} exists already; choose another with --output FILE.")
    found = import_config(source)
    text = found.experiment()
    for key in found.keys:
        print(key)
    head = f"# @package _global_\n# From {source.name} of {found.trainer}.\n"
    write_text(output, text=head + text)
    say(
        f"Wrote {shown(output)}: {len(found.settings)} settings from a file of {found.trainer}.",
        next_command=f"megacpt plan --config {shown(output)}",
    )
    return 0


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="YAML or JSON of Axolotl, transformers or Megatron-LM, or a script with its options",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the experiment that is written (default: NAME.megacpt.yaml here)",
    )


IMPORT_CONFIG = Verb(
    name="import-config",
    summary="turn the configuration of another trainer into one of megacpt",
    example="  megacpt import-config axolotl.yaml\n"
    "  megacpt import-config pretrain_llama.sh --output law.yaml\n"
    "Each key is taken, changed or left out, and the reason is said.",
    add_arguments=_import_arguments,
    run=_import,
)
