# SPDX-License-Identifier: Apache-2.0
"""What verbs share: a row of the help, the settings as arguments, what is said at the end."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.text import LiveLine, duration

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig

SLOW_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One sub-command: what help shows, its arguments and what it does."""

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def settings_arguments(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="a setting, as in optim.lr_peak=1e-5, or an option of a group, as in parallel=tp2",
    )
    settings.completer = _complete_setting  # type: ignore[attr-defined]
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file of settings; KEY=VALUE goes over it"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="folder with group files of your own"
    )


def _complete_setting(prefix: str, **_: object) -> list[str]:
    from megacpt.config.completion import candidates

    return candidates(prefix)


def run_dir_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a run")


def config_of(arguments: argparse.Namespace) -> RunConfig:
    from megacpt.config.compose import compose

    return compose(
        arguments.overrides, config_file=arguments.config, config_dir=arguments.config_dir
    )


def same_settings(arguments: argparse.Namespace) -> str:
    """The settings as typed, for the next command."""
    words: list[str] = []
    if arguments.config is not None:
        words += ["--config", str(arguments.config)]
    if arguments.config_dir is not None:
        words += ["--config-dir", str(arguments.config_dir)]
    return shlex.join([*words, *arguments.overrides])


def shown(path: Path | str) -> str:
    """Relative where it lies below the current folder."""
    absolute = Path(path).absolute()
    return str(
        absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
    )


def say(*lines: str, next_command: str) -> None:
    for line in lines:
        print(line)
    print(f"Next: {next_command}")


def plan_command(prefix: Path, *, tokenizer: str | None) -> str:
    # A name in a key has no dots, spaces or quotes.
    name = re.sub("[^A-Za-z0-9_-]", "_", prefix.name)
    # A tokenizer without a model is no model's folder.
    named = tokenizer
    if tokenizer is not None and Path(tokenizer).is_file():
        folder = Path(tokenizer).parent
        named = str(folder) if (folder / "config.json").is_file() else None
    model = [f"model.path={named}"] if named else []
    return shlex.join(["megacpt", "plan", *model, f"data.sources.{name}.prefix={shown(prefix)}"])


def slow_progress(what: str) -> Callable[[int, int], None] | None:
    """Shows how far work is that takes more than two seconds, on a terminal."""
    if not sys.stderr.isatty():
        return None
    line = LiveLine(sys.stderr, quiet_s=SLOW_S)

    def show(done: int, total: int) -> None:
        def text(elapsed_s: float) -> str:
            left_s = elapsed_s * (total - done) / max(done, 1)
            return f"{what} {done / total:6.1%}  {duration(left_s)} left"

        if done < total:
            line.show(text)
        else:
            line.close()

    return show
