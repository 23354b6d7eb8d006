# SPDX-License-Identifier: Apache-2.0
"""The ``megacpt`` command: one verb a step of the work.

A verb parses its arguments, calls one function and says what was written where and what comes
next. Everything heavy is imported inside the verb, so that ``megacpt --help`` is instant and the
verbs of a login node load no torch.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from megacpt import __version__
from megacpt.errors import ConfigError, EndedOnRequest, EnvironmentError_, MegacptError

if TYPE_CHECKING:
    from megacpt.checkpoint.listing import Listing
    from megacpt.config.sections import RunConfig
    from megacpt.device.environment import RankInfo
    from megacpt.plan.plan import Plan
    from megacpt.shards.manifest import Manifest
    from megacpt.shards.tokenize.progress import ProgressLine

INTERRUPTED = 130
GATE_FAILED = 1
NOT_WELL = 1
DAMAGED = 1
SAMPLES = 2
SLOW_S = 2.0
REDRAW_S = 0.2
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One sub-command: what help shows, its arguments and what it does."""

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Errors in the form of all others: one message on stderr, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Error: {message}; see {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    try:
        return _run(parser, words=words)
    except EndedOnRequest as end:
        return _fail(str(end), code=end.exit_code, label="")
    except MegacptError as error:
        return _fail(str(error), code=error.exit_code)
    except KeyboardInterrupt:
        again = shlex.join(["megacpt", *words])
        return _fail(f"Interrupted. Start it again to go on: {again}", code=INTERRUPTED, label="")
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; let the interpreter flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        problem = EnvironmentError_(f"{error.filename or 'A file'}: {error.strerror}.")
        return _fail(str(problem), code=problem.exit_code)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="megacpt",
        description="Continue the pretraining of a Hugging Face model on your own text.",
        epilog="Try it, in seconds on a CPU:  megacpt train experiment=tiny",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"megacpt {__version__}")
    verbs = parser.add_subparsers(title="verbs, in the order of the work", metavar="VERB")
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.summary[0].upper() + verb.summary[1:] + ".",
            epilog=f"example:\n{verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run, verb=verb.name)
    return parser


def _run(parser: argparse.ArgumentParser, *, words: list[str]) -> int:
    if not words:
        parser.print_help()
        return 0
    names = [verb.name for verb in VERBS]
    if not words[0].startswith("-") and words[0] not in names:
        close = difflib.get_close_matches(words[0], names, n=1, cutoff=0.0)
        parser.error(f"{words[0]!r} is not a verb; did you mean megacpt {close[0]}?")
    arguments, left = parser.parse_known_args(words)
    if left:
        _take_left_over(arguments, left=left, parser=parser, words=words)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _take_left_over(
    arguments: argparse.Namespace,
    *,
    left: list[str],
    parser: argparse.ArgumentParser,
    words: list[str],
) -> None:
    """argparse leaves over the settings or files that come after an option; put them back."""
    name = next((n for n in ("overrides", "inputs") if hasattr(arguments, n)), None)
    if name is None or any(word.startswith("-") for word in left):
        wrong = next((word for word in left if word.startswith("-")), left[0])
        parser.error(f"{wrong!r} is not an argument of megacpt {words[0]}")
    taken = {*getattr(arguments, name), *left}
    setattr(arguments, name, [word for word in words[1:] if word in taken])


def _fail(message: str, *, code: int, label: str = "Error: ") -> int:
    print(f"{label}{message}", file=sys.stderr)
    return code


def _complete(parser: argparse.ArgumentParser) -> None:
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False)


def _settings_arguments(parser: argparse.ArgumentParser) -> None:
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


def _run_dir_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a run")


def _compose(arguments: argparse.Namespace) -> RunConfig:
    from megacpt.config.compose import compose

    return compose(
        arguments.overrides, config_file=arguments.config, config_dir=arguments.config_dir
    )


def _same_settings(arguments: argparse.Namespace) -> str:
    """The settings as typed, for the next command."""
    words: list[str] = []
    if arguments.config is not None:
        words += ["--config", str(arguments.config)]
    if arguments.config_dir is not None:
        words += ["--config-dir", str(arguments.config_dir)]
    return shlex.join([*words, *arguments.overrides])


def _shown(path: Path | str) -> str:
    """Relative where it lies below the current folder."""
    absolute = Path(path).absolute()
    return str(
        absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
    )


def _say(*lines: str, next_command: str) -> None:
    for line in lines:
        print(line)
    print(f"Next: {next_command}")


def _config(arguments: argparse.Namespace) -> int:
    from megacpt.config.compose import render

    print(render(_compose(arguments)), end="")
    print(f"# Next: megacpt plan {_same_settings(arguments)}".rstrip())
    return 0


def _tokenize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help="JSONL, Parquet or text, also .gz and .zst; a folder, a pattern, or - for stdin",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="Hugging Face folder of the model; or a SentencePiece or tiktoken file",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PREFIX", help="writes PREFIX.bin/.idx/.json"
    )
    parser.add_argument("--key", default="text", help="field or column of the text (default: text)")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="threads (default: one a core)"
    )
    _tokenize_options(parser)
    parser.add_argument(
        "--task", metavar="K/N", help="make only pieces K, K+N, K+2N ...: one task of N, K from 0"
    )
    parser.add_argument("--merge", action="store_true", help="join the pieces that the tasks made")
    parser.add_argument(
        "--pack", type=int, metavar="LENGTH", help="also pack for data.sequence_length=LENGTH"
    )


def _tokenize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip", "quarantine"],
        default="stop",
        help="for lines that hold no text: stop (default), or leave them out",
    )
    parser.add_argument(
        "--format", choices=["jsonl", "parquet", "text"], help="of all files, whatever their names"
    )
    parser.add_argument("--no-eos", action="store_true", help="no end-of-text token at the end")
    parser.add_argument("--no-special", action="store_true", help="no BOS where the model has one")
    parser.add_argument(
        "--max-document-bytes",
        type=int,
        metavar="N",
        help="longer is an error (default: 64 Mi)",
    )
    parser.add_argument(
        "--tokenizer-settings", metavar="JSON", help="what a tiktoken file lacks: file or JSON"
    )


def _tokenize(arguments: argparse.Namespace) -> int:
    from megacpt.commands.account import account
    from megacpt.shards.tokenize.join import merge
    from megacpt.shards.tokenize.progress import ProgressLine

    started_at = time.monotonic()
    line = ProgressLine(sys.stderr)
    try:
        if arguments.merge:
            manifest = merge(arguments.output, progress=line)
        else:
            made = _tokenize_inputs(arguments, line=line)
            if made is None:
                return _say_task_done(arguments)
            manifest = made
    finally:
        line.close()
    output = _shown(arguments.output)
    lines = account(manifest, output=output, elapsed_s=time.monotonic() - started_at)
    if arguments.pack is not None:
        from megacpt.shards.packing import build_packing
        from megacpt.shards.reader import IndexedShard

        packing = build_packing(IndexedShard(arguments.output), sequence_length=arguments.pack)
        lines.append(f"  {_shown(packing)}, for data.packing=best_fit")
    _say(*lines, next_command=_plan_command(arguments.output, tokenizer=arguments.tokenizer))
    return 0


def _tokenize_inputs(arguments: argparse.Namespace, *, line: ProgressLine) -> Manifest | None:
    from megacpt.shards.tokenize import (
        DOCUMENT_BYTES_MAX,
        FileFormat,
        OnError,
        parse_task,
        tokenize,
    )
    from megacpt.tokenizer import load_tokenizer

    if not arguments.inputs or arguments.tokenizer is None:
        raise ConfigError(
            "megacpt tokenize needs files and --tokenizer; only --merge does without them."
        )
    limit = arguments.max_document_bytes
    return tokenize(
        arguments.inputs,
        tokenizer=load_tokenizer(
            arguments.tokenizer, settings=arguments.tokenizer_settings, fast=True
        ),
        output_prefix=arguments.output,
        key=arguments.key,
        append_eos=not arguments.no_eos,
        special=not arguments.no_special,
        workers=arguments.workers,
        on_error=OnError(arguments.on_error),
        file_format=FileFormat(arguments.format) if arguments.format else None,
        max_document_bytes=DOCUMENT_BYTES_MAX if limit is None else limit,
        task=parse_task(arguments.task) if arguments.task else None,
        progress=line,
        notice=lambda text: print(text, file=sys.stderr),
    )


def _say_task_done(arguments: argparse.Namespace) -> int:
    _say(
        f"Task {arguments.task} is done: its pieces are in {_shown(arguments.output)}.pieces",
        next_command="when all tasks are done: "
        + shlex.join(["megacpt", "tokenize", "--merge", "--output", _shown(arguments.output)]),
    )
    return 0


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", type=Path, metavar="PREFIX", help="reads PREFIX.bin/.idx/.json")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="decode with the one of this model folder"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="documents to decode (default: 2)")
    parser.add_argument(
        "--full", action="store_true", help="count all tokens of a large shard, not a sample"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare both files with the manifest's checksums"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the lengths: FILE.png, .svg or .pdf"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _inspect(arguments: argparse.Namespace) -> int:
    from megacpt.monitor.dataset_text import render
    from megacpt.shards.inspect import SAMPLED_TOKENS, inspect_shard, to_json
    from megacpt.shards.manifest import verify
    from megacpt.tokenizer import load_tokenizer

    if arguments.samples is not None and arguments.tokenizer is None:
        raise ConfigError("--samples decodes tokens; name the model's folder with --tokenizer.")
    if arguments.picture is not None:
        from megacpt.monitor.dataset_figure import draw, picture_format

        picture_format(arguments.picture)  # refused before the work, not after it
    tokenizer = load_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    wanted = SAMPLES if arguments.samples is None else arguments.samples
    if arguments.verify:
        verify(arguments.prefix, progress=_slow_progress("checksums"))
    found = inspect_shard(
        arguments.prefix,
        tokenizer=tokenizer,
        samples=wanted if tokenizer else 0,
        sampled_tokens=None if arguments.full else SAMPLED_TOKENS,
        progress=_slow_progress("tokens"),
    )
    found = replace(found, verified=arguments.verify)
    if arguments.picture is not None:
        draw(found, path=arguments.picture)
    if arguments.json:
        print(to_json(found))
        return 0
    print(render(found))
    drawn = [f"Wrote {_shown(arguments.picture)}"] if arguments.picture else []
    _say(*drawn, next_command=_plan_command(arguments.prefix, tokenizer=arguments.tokenizer))
    return 0


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="PREFIX", help="shards, in this order")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PREFIX", help="writes PREFIX.bin/.idx/.json"
    )


def _merge(arguments: argparse.Namespace) -> int:
    from megacpt.shards.merge import merge_shards

    prefixes = [Path(prefix) for prefix in arguments.inputs]
    merged = merge_shards(
        prefixes, output_prefix=arguments.output, progress=_slow_progress("merged")
    )
    output = _shown(arguments.output)
    files = merged.files
    _say(
        f"Wrote {files.documents:,} documents, {files.tokens:,} tokens of {len(prefixes)} shards:",
        f"  {output}.bin, {output}.idx" + f", {output}.json" * (merged.manifest is not None),
        next_command=f"megacpt inspect {shlex.quote(output)}",
    )
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX", help="token shards")
    parser.add_argument(
        "--sequence-length",
        type=int,
        required=True,
        metavar="S",
        help="data.sequence_length of the run; writes PREFIX.packS",
    )


def _pack(arguments: argparse.Namespace) -> int:
    from megacpt.shards.packing import pack, pack_path

    length = arguments.sequence_length
    for prefix in arguments.prefixes:
        (packed,) = pack([prefix], sequence_length=length)
        print(f"Wrote {_shown(pack_path(prefix, sequence_length=length))}")
        print(f"  {packed.rows:,} rows of {length:,}, {packed.fill_rate:.2%} filled")
        print(f"  {packed.documents:,} documents; {packed.cut:,} longer than a row are cut,")
        print(f"  {packed.left_out:,} without a target (one token or none) are left out")
    plan = _plan_command(Path(arguments.prefixes[0]), tokenizer=None)
    _say(next_command=f"{plan} data.packing=best_fit data.sequence_length={length}")
    return 0


def _slow_progress(what: str) -> Callable[[int, int], None] | None:
    """Shows how far work is that takes more than two seconds, on a terminal."""
    if not sys.stderr.isatty():
        return None
    from megacpt.shards.tokenize.progress import shown_time

    started_at = time.monotonic()
    shown_at = started_at

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if done >= total and shown_at > started_at:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - started_at > SLOW_S and now - shown_at > REDRAW_S:
            shown_at = now
            left = shown_time((now - started_at) * (total - done) / max(done, 1))
            text = f"\r\x1b[K{what} {done / total:6.1%}  {left} left"
            print(text, end="", file=sys.stderr, flush=True)

    return show


def _plan_command(prefix: Path, *, tokenizer: Path | None) -> str:
    # A name in a key has no dots, spaces or quotes.
    name = re.sub("[^A-Za-z0-9_-]", "_", prefix.name)
    model = [f"model.path={tokenizer}"] if tokenizer else []
    return shlex.join(["megacpt", "plan", *model, f"data.sources.{name}.prefix={_shown(prefix)}"])


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _settings_arguments(parser)
    parser.add_argument(
        "--lr-table", type=Path, metavar="FILE", help="write every step's learning rate there (TSV)"
    )


def _advise(plan: Plan) -> None:
    """What the plan says of settings that often are mistakes, also where nobody asked for it."""
    for sentence in plan.advice:
        print(f"Advice: {sentence}", file=sys.stderr)


def _plan(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.prepare import check
    from megacpt.files import write_text
    from megacpt.plan.learning_rate import rate_table

    config = _compose(arguments)
    print(check(config).render())
    if arguments.lr_table is not None:
        rows = rate_table(optim=config.optim, schedule=config.schedule)
        write_text(arguments.lr_table, text="".join(f"{row}\n" for row in rows))
    _say("", next_command=f"megacpt train {_same_settings(arguments)}".rstrip())
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.local import run_local
    from megacpt.cluster.prepare import prepare
    from megacpt.device.environment import rank_from_environment

    ranks = rank_from_environment()
    if ranks is not None:
        return _train_as_rank(arguments, ranks=ranks)
    config = _compose(arguments)
    _advise(prepare(config))
    code = run_local(config)
    if code == 0:
        _say_trained(config)
    return code


def _train_as_rank(arguments: argparse.Namespace, *, ranks: RankInfo) -> int:
    """Started by torchrun or srun: this process is one rank. The first speaks for all."""
    from megacpt.cluster.prepare import prepare
    from megacpt.device import variables

    try:
        config = _compose(arguments)
        variables.apply(config)
    except MegacptError as error:
        if ranks.rank == 0:
            raise
        return error.exit_code
    # It imports torch, so only now.
    from megacpt.train.rank import run_rank

    try:
        run_rank(
            config,
            ranks=ranks,
            mode="train",
            prepare=lambda: _advise(prepare(config, num_ranks=ranks.world_size)),
        )
    except EndedOnRequest as end:
        if ranks.rank == 0:
            raise
        return end.exit_code
    if ranks.rank == 0:
        _say_trained(config)
    return 0


def _say_trained(config: RunConfig) -> None:
    folder = _shown(config.run_dir)
    _say(
        f"Trained {config.schedule.steps} steps:",
        f"  metrics      {folder}/metrics.jsonl",
        f"  checkpoints  {folder}/checkpoints",
        next_command=f"megacpt evaluate {folder}",
    )


def _launch_arguments(parser: argparse.ArgumentParser) -> None:
    _settings_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="check, print the batch script, write nothing"
    )
    parser.add_argument(
        "--prepare-only",
        type=int,
        metavar="RANKS",
        help="write the run folder for so many ranks and print its path (launch/train.sbatch)",
    )


def _launch(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.launch import dry_run, launch
    from megacpt.config.paths import RunFolder

    config = _compose(arguments)
    if arguments.prepare_only is not None:
        return _prepare_only(config, ranks=arguments.prepare_only)
    if arguments.dry_run:
        print(dry_run(config, python=sys.executable), end="")
        return 0
    launched = launch(config, python=sys.executable)
    _advise(launched.plan)
    folder, run_dir = RunFolder(Path(config.run_dir)), _shown(config.run_dir)
    _say(
        f"Job {launched.job} is queued: {_shown(launched.script)}",
        f"  watch   squeue --job={launched.job}; megacpt logs {run_dir}",
        f"  stop    echo save_and_exit > {run_dir}/request   (it saves first)",
        f"          scancel --name={launched.name}   (all jobs of the run)",
        "  extend  the same command again, with more schedule.steps where that is wanted",
        next_command=f"tail -F {_shown(folder.train_log)}",
    )
    return 0


def _prepare_only(config: RunConfig, *, ranks: int) -> int:
    from megacpt.cluster.prepare import prepare
    from megacpt.config.paths import RunFolder

    _advise(prepare(config, num_ranks=ranks))
    RunFolder(Path(config.run_dir)).logs.mkdir(exist_ok=True)
    print(config.run_dir)
    return 0


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
    _say(
        f"Logs, in {_shown(found.logs)}: {', '.join(files) or 'none'}",
        next_command=f"tail -F {_shown(found.logs / files[-1])}" if files else "megacpt train",
    )
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from megacpt.cluster.local import run_local
    from megacpt.config.compose import read_run_yaml
    from megacpt.device.environment import rank_from_environment

    config = read_run_yaml(arguments.run_dir / "run.yaml")
    ranks = rank_from_environment()
    if ranks is not None:
        from megacpt.device import variables

        variables.apply(config)
        # It imports torch, so only now.
        from megacpt.train.rank import run_rank

        run_rank(config, ranks=ranks, mode="evaluate")
    else:
        code = run_local(config, mode="evaluate")
        if code != 0:
            return code
    return _say_evaluated(arguments.run_dir) if ranks is None or ranks.rank == 0 else 0


def _say_evaluated(run_dir: Path) -> int:
    path = run_dir / "evaluation.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(f"{'held-out set':<24}{'base perplexity':>18}{'final':>12}{'ratio':>10}")
    for name, losses in result["heldout"].items():
        base, final = losses["base"]["perplexity"], losses["final"]["perplexity"]
        print(f"{name:<24}{base:>18.3f}{final:>12.3f}{final / base:>10.4f}")
    failed = [check for check in result["gate"] if check["verdict"] == "failed"]
    for check in result["gate"]:
        print(f"Gate: {check['sentence']}")
    _say(f"Wrote {_shown(path)}", next_command=f"megacpt export {_shown(run_dir)}")
    return GATE_FAILED if failed else 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _run_dir_argument(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write (default: RUN_DIR/hf)"
    )


def _export(arguments: argparse.Namespace) -> int:
    from megacpt.convert.run import export_run

    output = arguments.output or arguments.run_dir / "hf"
    export_run(arguments.run_dir, output=output)
    _say(
        f"Wrote the Hugging Face folder {_shown(output)}",
        f"  its logits against the native model's: {_shown(output)}/certificate.json",
        next_command=f"megacpt report {_shown(arguments.run_dir)}",
    )
    return 0


def _checkpoints_arguments(parser: argparse.ArgumentParser) -> None:
    _run_dir_argument(parser)
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


def _show_weights(run_dir: Path, *, first: int, second: int) -> None:
    from megacpt.checkpoint.difference import folder_of
    from megacpt.checkpoint.weight_change import weight_changes
    from megacpt.monitor.checkpoints_text import WEIGHTS_HEADER, weight_line

    print(WEIGHTS_HEADER)
    # A line as soon as it is known: a large model's weights take a while to read.
    for change in weight_changes(
        folder_of(run_dir, step=first), second=folder_of(run_dir, step=second)
    ):
        print(weight_line(change), flush=True)


def _checkpoints(arguments: argparse.Namespace) -> int:
    from megacpt.checkpoint.difference import compare
    from megacpt.checkpoint.listing import list_checkpoints, prune_listed
    from megacpt.checkpoint.retention import loss_of, retention_of
    from megacpt.config.compose import read_run_yaml
    from megacpt.monitor.checkpoints_text import render, render_difference

    run_dir = arguments.run_dir
    if arguments.diff is not None:
        first, second = arguments.diff
        rows = compare(run_dir, first=first, second=second)
        print(render_difference(rows, first=first, second=second))
        if arguments.weights:
            _show_weights(run_dir, first=first, second=second)
        _say(next_command=f"megacpt checkpoints {_shown(run_dir)} --verify")
        return 0
    if arguments.weights:
        raise ConfigError("--weights belongs to --diff STEP STEP; name the two checkpoints.")
    config = read_run_yaml(run_dir / "run.yaml")
    policy = retention_of(config)
    if arguments.keep_last is not None:
        policy = replace(
            policy, keep_last=_at_least(arguments.keep_last, least=1, name="--keep-last")
        )
    if arguments.keep_every_steps is not None:
        every = _at_least(arguments.keep_every_steps, least=0, name="--keep-every-steps")
        policy = replace(policy, keep_every_steps=every)
    progress = _slow_progress("checksums") if arguments.verify else None
    listing = list_checkpoints(
        run_dir, policy=policy, loss_of=loss_of(config), full=arguments.verify, progress=progress
    )
    if arguments.prune:
        listing = prune_listed(listing, policy=policy)
    print(render(listing))
    _say(next_command=_after_checkpoints(listing, run_dir=_shown(run_dir)))
    return DAMAGED if listing.damaged else 0


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


def _report(arguments: argparse.Namespace) -> int:
    from megacpt.monitor.report import write_report

    write_report(arguments.run_dir)
    folder = _shown(arguments.run_dir)
    _say(
        f"Wrote {folder}/report.html and {folder}/report.json",
        next_command=f"open {folder}/report.html in a browser",
    )
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


def _doctor(arguments: argparse.Namespace) -> int:
    from megacpt.preflight.doctor import diagnose, passes, screen

    results = diagnose(arguments.folder.absolute())
    print(screen(results))
    if not passes(results):
        return NOT_WELL
    _say(next_command="megacpt train experiment=tiny")
    return 0


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["megacpt"], shell=arguments.shell))
    return 0


VERBS = (
    Verb(
        name="config",
        summary="print the resolved configuration",
        example="  megacpt config experiment=tiny parallel.tp=2\n"
        "  megacpt config --config my.yaml optim.lr_peak=1e-5",
        add_arguments=_settings_arguments,
        run=_config,
    ),
    Verb(
        name="tokenize",
        summary="turn documents into a token shard",
        example="  megacpt tokenize law.jsonl --tokenizer models/llama --output data/law\n"
        "  megacpt tokenize corpus/ 'b/*.parquet' --tokenizer models/llama \\\n"
        "      --output data/law --key body --on-error quarantine\n"
        "  zcat dump.gz | megacpt tokenize - --tokenizer models/llama --output data/dump\n"
        "The same command again goes on from the finished pieces. On several machines:\n"
        "  megacpt tokenize corpus/ --tokenizer models/llama --output data/law --task 0/2\n"
        "  megacpt tokenize corpus/ --tokenizer models/llama --output data/law --task 1/2\n"
        "  megacpt tokenize --merge --output data/law",
        add_arguments=_tokenize_arguments,
        run=_tokenize,
    ),
    Verb(
        name="inspect",
        summary="show what is in a token shard: lengths, vocabulary, samples, origin",
        example="  megacpt inspect data/law --tokenizer models/llama\n"
        "  megacpt inspect data/law --full --verify --picture law.png",
        add_arguments=_inspect_arguments,
        run=_inspect,
    ),
    Verb(
        name="merge",
        summary="join token shards into one, in the order given",
        example="  megacpt merge data/law-2023 data/law-2024 --output data/law",
        add_arguments=_merge_arguments,
        run=_merge,
    ),
    Verb(
        name="pack",
        summary="fill rows with whole documents, for data.packing=best_fit",
        example="  megacpt pack data/law data/general --sequence-length 2048",
        add_arguments=_pack_arguments,
        run=_pack,
    ),
    Verb(
        name="plan",
        summary="show tokens, epochs, learning rates, memory and disk of a run; write nothing",
        example="  megacpt plan model.path=models/llama data.sources.law.prefix=data/law",
        add_arguments=_plan_arguments,
        run=_plan,
    ),
    Verb(
        name="train",
        summary="train on this machine, or as one rank under torchrun or srun",
        example="  megacpt train experiment=tiny\n"
        "  megacpt train experiment=tiny parallel.tp=2 run_dir=runs/tiny_tp2\n"
        "The same command again resumes the run.",
        add_arguments=_settings_arguments,
        run=_train,
    ),
    Verb(
        name="launch",
        summary="check a run, write its batch script and submit it to Slurm",
        example="  megacpt launch experiment=tiny cluster=slurm cluster.device=cpu\n"
        "  megacpt launch --config law.yaml cluster=slurm cluster.nodes=4 \\\n"
        "      cluster.gpus_per_node=8 cluster.slurm.partition=gpu --dry-run\n"
        "The same command again goes on from the newest checkpoint.",
        add_arguments=_launch_arguments,
        run=_launch,
    ),
    Verb(
        name="logs",
        summary="show the starts of a run, its first error and where its logs are",
        example="  megacpt logs runs/law",
        add_arguments=_run_dir_argument,
        run=_logs,
    ),
    Verb(
        name="checkpoints",
        summary="list, verify, compare and prune the checkpoints of a run",
        example="  megacpt checkpoints runs/tiny --verify\n"
        "  megacpt checkpoints runs/tiny --diff 16 24 --weights\n"
        "  megacpt checkpoints runs/tiny --keep-last 1            # what would stay\n"
        "  megacpt checkpoints runs/tiny --keep-last 1 --prune\n"
        "Exit code 1: one of them is damaged.",
        add_arguments=_checkpoints_arguments,
        run=_checkpoints,
    ),
    Verb(
        name="evaluate",
        summary="measure the held-out sets, base model beside newest checkpoint, and the gate",
        example="  megacpt evaluate runs/tiny\n"
        "Exit code 1: a gate threshold (evaluate.gate) is exceeded.",
        add_arguments=_run_dir_argument,
        run=_evaluate,
    ),
    Verb(
        name="export",
        summary="write the newest checkpoint as a Hugging Face folder with a certificate",
        example="  megacpt export runs/tiny --output models/tiny-adapted",
        add_arguments=_export_arguments,
        run=_export,
    ),
    Verb(
        name="report",
        summary="write report.json and a single-file report.html",
        example="  megacpt report runs/tiny",
        add_arguments=_run_dir_argument,
        run=_report,
    ),
    Verb(
        name="doctor",
        summary="check this machine: packages, memory, disk, GPUs, Slurm, clock, network",
        example="  megacpt doctor /shared/runs\nExit code 1: something is marked FAIL.",
        add_arguments=_doctor_arguments,
        run=_doctor,
    ),
    Verb(
        name="completion",
        summary="print the script that completes megacpt in your shell",
        example='  eval "$(megacpt completion bash)"      # in ~/.bashrc\n'
        "  megacpt completion fish > ~/.config/fish/completions/megacpt.fish",
        add_arguments=_completion_arguments,
        run=_completion,
    ),
)
