# SPDX-License-Identifier: Apache-2.0
"""The ``megacpt`` command: parse a line, run its verb, turn an error into an exit code."""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from megacpt import __version__
from megacpt.commands import (
    adapters,
    compare,
    convert,
    curate,
    evaluate,
    imports,
    machine,
    results,
    run,
    serve,
    sft,
    shards,
    tokenize,
    usefulness,
    vocabulary,
)
from megacpt.errors import EndedOnRequest, EnvironmentError_, MegacptError

VERBS = (
    machine.FAMILIES,
    run.CONFIG,
    imports.IMPORT_CONFIG,
    vocabulary.VOCABULARY,
    *(curate.CURATE, curate.FILTER, curate.DEDUPLICATE, curate.DECONTAMINATE),
    *(curate.REWRITE, curate.BALANCE),
    tokenize.TOKENIZE,
    *(shards.INSPECT, shards.MERGE, shards.PACK),
    *(run.PLAN, run.TRAIN, run.LAUNCH, run.LOGS),
    sft.SFT,
    *(results.CHECKPOINTS, evaluate.EVALUATE, results.EXPORT, results.REPORT),
    compare.COMPARE,
    *(serve.SERVE, usefulness.USEFULNESS),
    *(convert.CONVERT, convert.VERIFY, adapters.EXTRACT),
    *(machine.DOCTOR, machine.COMPLETION),
)
INTERRUPTED = 130
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class _Parser(argparse.ArgumentParser):
    """Errors in the form of all others: one message on stderr, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Error: {message}; see {self.prog} --help.\n")


def entry() -> NoReturn:
    """The command as a process."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:
        # `python -m` ends by SIGINT where Ctrl-C came inside exec() of a text (dataclasses and
        # imports run it), although it was caught. And what was interrupted has no last word.
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Names of files need not be UTF-8.
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    try:
        return _run_interruptibly(parser, words=words)
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


def _run_interruptibly(parser: argparse.ArgumentParser, *, words: list[str]) -> int:
    """Ctrl-C is a KeyboardInterrupt, also where a library makes an error of its own of it."""
    came: list[int] = []

    def interrupt(number: int, *_: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return _run(parser, words=words)
    signal.signal(signal.SIGINT, interrupt)
    try:
        return _run(parser, words=words)
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    exit_code: int = arguments.run(arguments)
    return exit_code


def _take_left_over(
    arguments: argparse.Namespace,
    *,
    left: list[str],
    parser: argparse.ArgumentParser,
    words: list[str],
) -> None:
    """argparse leaves over the settings or files that come after an option; put them back."""
    name = next((n for n in ("overrides", "inputs", "words") if hasattr(arguments, n)), None)
    if name is None or any(word.startswith("-") for word in left):
        wrong = next((word for word in left if word.startswith("-")), left[0])
        meant = _setting(words[words.index(wrong) :]) if name == "overrides" else ""
        parser.error(f"{wrong!r} is not an argument of megacpt {words[0]}{meant}")
    taken = {*getattr(arguments, name), *left}
    setattr(arguments, name, [word for word in words[1:] if word in taken])


def _setting(words: list[str]) -> str:
    """What to write for an option of another trainer, which comes first; "" if it is none."""
    from megacpt.config.foreign import suggestion

    option, equals, value = words[0].partition("=")
    if not equals:
        following = [word for word in words[1:2] if not word.startswith("-") and "=" not in word]
        value = following[0] if following else "true"
    found = suggestion(option, value=value)
    return f"; settings are written KEY=VALUE: {found}" if found else ""


def _fail(message: str, *, code: int, label: str = "Error: ") -> int:
    print(f"{label}{message}", file=sys.stderr)
    return code


def _complete(parser: argparse.ArgumentParser) -> None:
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False)
