# SPDX-License-Identifier: Apache-2.0
"""The verb curate, and what it says of its work."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import model_path, tokenizer_path
from megacpt.corpus.documents import QUARANTINE
from megacpt.text import text_size

if TYPE_CHECKING:
    from megacpt.corpus.curation import Curation, CurationStep
    from megacpt.corpus.workers.processes import Report
    from megacpt.curate.config import CurateConfig
    from megacpt.curate.distributed.settings import JobsConfig
    from megacpt.curate.pipeline import Watcher


def _curate(arguments: argparse.Namespace) -> int:
    from megacpt.curate.config import read_config

    words = list(arguments.words)
    path = Path(words.pop(0)) if words and "=" not in words[0] else None
    config = read_config(path, overrides=words)
    if arguments.task:
        return _share(config, task=arguments.task, words=arguments.words)
    return _done(config, dry_run=arguments.dry_run)


def _done(config: CurateConfig, *, dry_run: bool) -> int:
    """Here, or by jobs that are submitted."""
    if config.slurm is not None and not dry_run:
        return _submit(config, jobs=config.slurm)
    return run(config, dry_run=dry_run)


def _share(config: CurateConfig, *, task: str, words: Sequence[str]) -> int:
    from megacpt.corpus.workers.share import parse_share
    from megacpt.curate.distributed.stages import make_share

    share = parse_share(task)
    _bring_models(config)
    with _told() as watcher:
        left = make_share(config, share=share, watcher=watcher)
    here = ["slurm=null"] if config.slurm is not None else []
    same = shlex.join(["megacpt", "curate", *words, *here])
    say(
        f"Task {task}: {left or 'all pieces of all steps are there'}.",
        next_command=f"{same} --task K/N, for every K" if left else same,
    )
    return 0


def _submit(config: CurateConfig, *, jobs: JobsConfig) -> int:
    from megacpt.curate.distributed.submit import logs_folder, submit

    _bring_models(config)
    submitted = submit(config, jobs=jobs)
    say(
        *(f"Job {s.job:<10} {s.stage:<32} {s.tasks:>6,} tasks" for s in submitted),
        f"Each begins when the one before has ended well; the last writes {shown(config.output)}.",
        "If one fails, submit the same again: what is finished stays.",
        f"Logs: {shown(logs_folder(config))}/*/slurm_logs",
        next_command="squeue --me",
    )
    return 0


def step_config(arguments: argparse.Namespace) -> CurateConfig:
    """Of one step by its own verb: files, and settings that stand below its section."""
    from megacpt.curate.config import CurateConfig, read_config

    words = arguments.words
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    files = ",".join(word for word in words if word not in settings)
    known = {field.name for field in fields(CurateConfig)}
    step = arguments.verb
    return read_config(
        None,
        overrides=[
            f"output={arguments.output}",
            *([f"sources.text.files={files}"] if files else []),
            f"{step}={{}}",
            *(w if re.split("[.=]", w)[0] in known else f"{step}.{w}" for w in settings),
        ],
    )


def _rewrite(arguments: argparse.Namespace) -> int:
    words = arguments.words
    arguments.words = ["sources.text.shape=auto", *words, *["endpoint.yes=true"] * arguments.yes]
    return _step(arguments)


def _decontaminate(arguments: argparse.Namespace) -> int:
    suites = [suite_setting(word) for word in arguments.suite]
    arguments.words = [*arguments.words, *suites]
    return _step(arguments)


def suite_setting(word: str) -> str:
    """Of NAME=PATH, or of a path or task whose name will do."""
    name, equals, path = word.partition("=")
    if not equals or Path(word).exists():
        name, path = re.sub("[^A-Za-z0-9_-]", "_", Path(word).name.split(".")[0]), word
    return f"suites.{name}.path={path}"


def _filter(arguments: argparse.Namespace) -> int:
    if not arguments.tune:
        return _step(arguments)
    from megacpt.curate.filters.tune import tune

    config = step_config(arguments)
    _bring_models(config)
    with _told() as watcher:
        found = tune(config, watcher=watcher)
    say(*found.lines(), next_command="the same with other limits, or as it is without --tune")
    return 0


def _step(arguments: argparse.Namespace) -> int:
    return _done(step_config(arguments), dry_run=arguments.dry_run)


def _balance(arguments: argparse.Namespace) -> int:
    """The files are the domain; those of --general are replayed beside it."""
    general = ",".join(arguments.general)
    arguments.words += [f"sources.general.files={general}", "sources.general.kind=general"]
    return _step(arguments)


def _bring_models(config: CurateConfig) -> None:
    """Folders in place of names of the hub."""
    if config.filter is not None and config.filter.perplexity is not None:
        section = config.filter.perplexity
        section.model = str(
            model_path(section.model, weights=True, argument="filter.perplexity.model")
        )
    if config.balance is not None and config.balance.tokenizer is not None:
        config.balance.tokenizer = str(tokenizer_path(config.balance.tokenizer))
    if config.rewrite is not None and config.rewrite.fill_in_the_middle is not None:
        code = config.rewrite.fill_in_the_middle
        code.tokenizer = str(tokenizer_path(code.tokenizer))


@contextmanager
def _told() -> Iterator[Watcher]:
    """Shows how far each step is."""
    from megacpt.curate.pipeline import Watcher
    from megacpt.curate.progress import StepLine

    lines: list[StepLine] = []

    def begins(name: str, *, num_bytes: int) -> Report:
        for line in lines:
            line.close()
        lines.append(StepLine(sys.stderr, name=name, bytes_total=num_bytes))
        return lines[-1]

    try:
        yield Watcher(begins=begins, notice=lambda text: print(text, file=sys.stderr))
    finally:
        for line in lines:
            line.close()


def run(config: CurateConfig, *, dry_run: bool) -> int:
    from megacpt.curate.pipeline import curate

    _bring_models(config)
    started_at = time.monotonic()
    with _told() as watcher:
        found = curate(config, dry_run=dry_run, watcher=watcher)
    output = shown(Path(config.output))
    elapsed_s = time.monotonic() - started_at
    if dry_run:
        say(*account(found), next_command="the same without --dry-run")
        return 0
    say(
        *account(found),
        *_written(found, output=output, elapsed_s=elapsed_s),
        next_command=f"megacpt tokenize {output}/{next(iter(found.sources))} --tokenizer MODEL "
        f"--output data/{next(iter(found.sources))}",
    )
    return 0


def account(curation: Curation) -> Iterator[str]:
    """A table: what each step has left of each source, and by which rules the rest went."""
    for step in curation.steps:
        yield f"{step.name:<28}{'documents':>12}{'left':>12}{'text':>12}{'left':>12}"
        for source, counts in step.counts.items():
            yield (
                f"  {source:<26}{counts['documents_in']:>12,}{counts['documents_out']:>12,}"
                f"{text_size(counts['bytes_in']):>12}{text_size(counts['bytes_out']):>12}"
            )
        yield from _rules(step)
        yield from _bad_lines(step)
        yield from step.findings.get("table", ())


def _rules(step: CurationStep) -> Iterator[str]:
    found: dict[str, list[int]] = {}
    for counts in step.counts.values():
        for rule, of_rule in counts["rules"].items():
            sums = found.setdefault(rule, [0, 0])
            sums[0] += of_rule["documents"]
            sums[1] += of_rule["dropped"]
    for rule, (documents, dropped) in sorted(found.items(), key=lambda item: -item[1][0]):
        yield f"    {rule:<40}{documents:>12,}  {dropped:,} dropped"


def _bad_lines(step: CurationStep) -> Iterator[str]:
    from megacpt.curate.quarantine import told

    found: Counter[str] = Counter()
    for counts in step.counts.values():
        found.update(counts["errors"])
    if found:
        yield f"    {told(found)}"


def _written(curation: Curation, *, output: str, elapsed_s: float) -> Iterator[str]:
    documents = sum(source.documents for source in curation.sources.values())
    size = sum(source.bytes for source in curation.sources.values())
    plural = "s" * (documents != 1)
    yield f"Wrote {documents:,} document{plural}, {text_size(size)} of text, in {elapsed_s:.1f} s:"
    folders = ",".join(curation.sources)
    within = folders if len(curation.sources) == 1 else f"{{{folders}}}"
    kept = f", {output}/{QUARANTINE}" * (Path(output) / QUARANTINE).is_file()
    yield f"  {output}/{within}, {output}/curation.json{kept}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG | KEY=VALUE",
        help="a YAML file, and settings that are laid over it",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--task",
        metavar="K/N",
        help="of each step make only pieces K, K+N, K+2N ...: one machine of N, K from 0",
    )
    either.add_argument(
        "--dry-run", action="store_true", help="only report what would be left; write nothing"
    )


def _step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE | KEY=VALUE",
        help="what megacpt tokenize reads; settings of the step and, by their full names, others",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new folder for what is left"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only report what would be left; write nothing"
    )


def _balance_arguments(parser: argparse.ArgumentParser) -> None:
    _step_arguments(parser)
    parser.add_argument(
        "--general",
        action="append",
        required=True,
        metavar="FILE",
        help="general text, replayed beside that of the domain; may be given several times",
    )


BALANCE = Verb(
    name="balance",
    summary="weigh domain against general text, sample down, write a run's blend",
    example="  megacpt balance law.jsonl --general web.jsonl.zst --output data/balanced\n"
    "  megacpt balance law.jsonl ratio=4 tokenizer=models/llama \\\n"
    "      --general web.jsonl.zst --output data/balanced --dry-run",
    add_arguments=_balance_arguments,
    run=_balance,
)


def _rewrite_arguments(parser: argparse.ArgumentParser) -> None:
    _step_arguments(parser)
    parser.add_argument(
        "--yes", action="store_true", help="send an endpoint as many requests as it takes"
    )


REWRITE = Verb(
    name="rewrite",
    summary="make flowing text of conversations, questions with answers, records and tables",
    example="  megacpt rewrite chats.jsonl --output data/told\n"
    "  megacpt rewrite items.csv --output data/told templates=english \\\n"
    "      sources.text.shape=table\n"
    "The same command again goes on from what is finished.",
    add_arguments=_rewrite_arguments,
    run=_rewrite,
)


def _decontaminate_arguments(parser: argparse.ArgumentParser) -> None:
    _step_arguments(parser)
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a benchmark: a task of lm-eval, or files of items; once for each",
    )


DECONTAMINATE = Verb(
    name="decontaminate",
    summary="leave out documents that hold what benchmarks ask",
    example="  megacpt decontaminate crawl.jsonl.zst --suite mmlu --output data/clean\n"
    "  megacpt decontaminate law.jsonl --suite bar=exam.jsonl action=mask \\\n"
    "      --output data/clean\n"
    "The same command again goes on from what is finished.",
    add_arguments=_decontaminate_arguments,
    run=_decontaminate,
)


def _filter_arguments(parser: argparse.ArgumentParser) -> None:
    _step_arguments(parser)
    parser.add_argument(
        "--tune",
        action="store_true",
        help="show what each limit would be compared with, in a sample; write nothing",
    )


FILTER = Verb(
    name="filter",
    summary="leave out documents by rules of Gopher, C4 and FineWeb, language, perplexity",
    example="  megacpt filter crawl.jsonl.zst --output data/clean --tune\n"
    "  megacpt filter crawl.jsonl.zst --output data/clean gopher=null c4={} pii={}\n"
    "The same command again goes on from what is finished.",
    add_arguments=_filter_arguments,
    run=_filter,
)

DEDUPLICATE = Verb(
    name="deduplicate",
    summary="leave out documents that are, or nearly are, others",
    example="  megacpt deduplicate crawl.jsonl.zst --output data/clean\n"
    "  megacpt deduplicate a.jsonl b/ --output data/clean near.threshold=0.7 lines={}\n"
    "The same command again goes on from what is finished.",
    add_arguments=_step_arguments,
    run=_step,
)

CURATE = Verb(
    name="curate",
    summary="make raw text fit for training, step by step, with an account",
    example="  megacpt curate curate.yaml\n"
    "  megacpt curate curate.yaml deduplicate.near.threshold=0.7 --dry-run\n"
    "  megacpt curate curate.yaml slurm.partition=cpu slurm.tasks=32\n"
    "The same command again goes on from what is finished.",
    add_arguments=_arguments,
    run=_curate,
)
