# SPDX-License-Identifier: Apache-2.0
"""The verb tokenize, and what it says of its work."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, plan_command, say, shown
from megacpt.commands.model import tokenizer_path
from megacpt.errors import ConfigError
from megacpt.text import text_size

if TYPE_CHECKING:
    from megacpt.shards.manifest import Manifest
    from megacpt.shards.tokenize.progress import ProgressLine

FAST = "fastokens"
TEXT = "text"
"""Key, unless another is named."""


def _tokenize(arguments: argparse.Namespace) -> int:
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
    output = shown(arguments.output)
    lines = account(manifest, output=output, elapsed_s=time.monotonic() - started_at)
    if manifest.mask_sha256 and not manifest.is_chat:
        lines.append(_not_learned(arguments.output, manifest=manifest))
    if arguments.pack is not None:
        from megacpt.shards.packing import build_packing
        from megacpt.shards.reader import IndexedShard

        packing = build_packing(IndexedShard(arguments.output), sequence_length=arguments.pack)
        lines.append(f"  {shown(packing)}, for data.packing=best_fit")
    say(*lines, next_command=plan_command(arguments.output, tokenizer=arguments.tokenizer))
    return 0


def _tokenize_inputs(arguments: argparse.Namespace, *, line: ProgressLine) -> Manifest | None:
    from megacpt.corpus.workers.share import parse_share
    from megacpt.shards.tokenize import FileFormat, OnError, tokenize
    from megacpt.tokenizer.auto_tokenizer import load_checked

    if not arguments.inputs or arguments.tokenizer is None:
        raise ConfigError(
            "megacpt tokenize needs files and --tokenizer; only --merge does without them."
        )
    if arguments.chat:
        return _tokenize_chat(arguments, line=line)
    _require_no_chat_options(arguments)
    return tokenize(
        arguments.inputs,
        tokenizer=load_checked(
            tokenizer_path(arguments.tokenizer), settings=arguments.tokenizer_settings
        ),
        output_prefix=arguments.output,
        key=arguments.key,
        append_eos=not arguments.no_eos,
        special=not arguments.no_special,
        workers=arguments.workers,
        on_error=OnError(arguments.on_error),
        file_format=FileFormat(arguments.format) if arguments.format else None,
        max_document_bytes=_document_bytes_max(arguments),
        task=parse_share(arguments.task) if arguments.task else None,
        progress=line,
        notice=lambda text: print(text, file=sys.stderr),
    )


def _tokenize_chat(arguments: argparse.Namespace, *, line: ProgressLine) -> Manifest:
    from megacpt.shards.chat import tokenize_chat
    from megacpt.shards.chat.encode import OnLong
    from megacpt.shards.chat.template import choose_template
    from megacpt.shards.tokenize import FileFormat, OnError
    from megacpt.tokenizer.auto_tokenizer import load_checked

    _require_no_text_options(arguments)
    tokenizer = load_checked(tokenizer_path(arguments.tokenizer))
    most = arguments.max_tokens
    if most is None and arguments.pack is not None:
        most = arguments.pack + 1  # The last token is a target alone.
    return tokenize_chat(
        arguments.inputs,
        tokenizer=tokenizer,
        output_prefix=arguments.output,
        template=choose_template(arguments.chat_template, tokenizer=tokenizer),
        max_tokens=most,
        on_long=OnLong(arguments.on_long or OnLong.stop.value),
        on_error=OnError(arguments.on_error),
        file_format=FileFormat(arguments.format) if arguments.format else None,
        max_document_bytes=_document_bytes_max(arguments),
        progress=line,
        notice=lambda text: print(text, file=sys.stderr),
    )


def _document_bytes_max(arguments: argparse.Namespace) -> int:
    from megacpt.shards.tokenize import DOCUMENT_BYTES_MAX

    given: int | None = arguments.max_document_bytes
    return DOCUMENT_BYTES_MAX if given is None else given


def _require_no_text_options(arguments: argparse.Namespace) -> None:
    for option, given, reason in (
        ("--task", arguments.task, "one process writes conversations"),
        ("--key", arguments.key != TEXT, "conversations are read by keys of their own"),
        ("--no-eos", arguments.no_eos, "the template says how conversations end"),
        ("--no-special", arguments.no_special, "the template says how conversations begin"),
        ("--tokenizer-settings", arguments.tokenizer_settings, "it needs a tokenizer.json"),
    ):
        if given:
            raise ConfigError(f"{option} does not go with --chat: {reason}; leave it out.")


def _require_no_chat_options(arguments: argparse.Namespace) -> None:
    for option, given in (
        ("--chat-template", arguments.chat_template),
        ("--max-tokens", arguments.max_tokens),
        ("--on-long", arguments.on_long),
    ):
        if given is not None:
            raise ConfigError(f"{option} is for conversations; add --chat, or leave it out.")


def _say_task_done(arguments: argparse.Namespace) -> int:
    say(
        f"Task {arguments.task} is done: its pieces are in {shown(arguments.output)}.pieces",
        next_command="when all tasks are done: "
        + shlex.join(["megacpt", "tokenize", "--merge", "--output", shown(arguments.output)]),
    )
    return 0


def account(manifest: Manifest, *, output: str, elapsed_s: float) -> list[str]:
    """``output`` is the prefix as it is to be shown."""
    num_bytes = sum(file.bytes for file in manifest.inputs)
    rate = num_bytes / max(elapsed_s, 1e-9)
    what = "conversations" if manifest.is_chat else "documents"
    mask = f", {output}.mask" * bool(manifest.mask_sha256)
    return [
        f"Wrote {manifest.documents:,} {what}, {manifest.tokens:,} tokens of "
        f"{text_size(num_bytes)} in {elapsed_s:.1f} s ({text_size(rate)}/s):",
        f"  {output}.bin, {output}.idx{mask}, {output}.json",
        *_left_out(manifest, output=output),
        *(f"  {line}" for line in _encoded_by(manifest)),
    ]


def _not_learned(prefix: Path, *, manifest: Manifest) -> str:
    from megacpt.shards.loss_mask import num_learned, open_mask

    mask_T = open_mask(prefix, manifest=manifest)
    assert mask_T is not None
    count = mask_T.size - num_learned(mask_T)
    return f"  {count:,} tokens are read and not learned (decontaminate.action=mask)"


def _left_out(manifest: Manifest, *, output: str) -> list[str]:
    lines = []
    if manifest.errors:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(manifest.errors.items()))
        kept = f"; they are in {output}.quarantine.jsonl" * (manifest.on_error == "quarantine")
        lines.append(f"  {sum(manifest.errors.values()):,} bad lines left out ({kinds}){kept}")
    if manifest.empty_documents:
        lines.append(f"  {manifest.empty_documents:,} empty documents left out")
    if manifest.truncated_documents:
        lines.append(f"  {manifest.truncated_documents:,} conversations were cut off at the end")
    if manifest.long_documents:
        lines.append(f"  {manifest.long_documents:,} documents have more than 100,000 tokens each")
    return lines


def _encoded_by(manifest: Manifest) -> list[str]:
    lines = []
    for backend in manifest.backends:
        checked = (
            f", equal to tokenizers on {backend.checked_documents:,} excerpts of this text "
            f"({text_size(backend.checked_bytes)})"
        )
        lines.append(f"by {backend.name}{checked * backend.name.startswith(FAST)}")
    return lines


def _tokenize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help="JSONL, JSON, CSV, Parquet, text or Markdown, also .gz, .zst, .bz2 and .xz; a folder, "
        "a pattern, or - for stdin",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="Hugging Face folder or hub id of the model; or a SentencePiece or tiktoken file",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PREFIX", help="writes PREFIX.bin/.idx/.json"
    )
    parser.add_argument("--key", default=TEXT, help="field or column of the text (default: text)")
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
        "--format",
        choices=["jsonl", "json", "csv", "tsv", "parquet", "text"],
        help="of all files, whatever their names",
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
    _chat_options(parser.add_argument_group("conversations"))


def _chat_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--chat",
        action="store_true",
        help="lines are conversations (messages, conversations, prompt and completion): write "
        "PREFIX.mask as well, which says what the assistant said",
    )
    group.add_argument(
        "--chat-template",
        metavar="TEMPLATE",
        help="chatml, plain, a Jinja file, or a model's folder (default: the tokenizer's own)",
    )
    group.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="of a conversation (default: with --pack LENGTH one more than that, else any)",
    )
    group.add_argument(
        "--on-long",
        choices=["stop", "skip", "truncate"],
        help="for longer ones: stop (default), leave them out, or cut off their end",
    )


TOKENIZE = Verb(
    name="tokenize",
    summary="turn documents into a token shard",
    example="  megacpt tokenize law.jsonl --tokenizer models/llama --output data/law\n"
    "  megacpt tokenize corpus/ 'b/*.parquet' --tokenizer models/llama \\\n"
    "      --output data/law --key body --on-error quarantine\n"
    "  zcat dump.gz | megacpt tokenize - --tokenizer models/llama --output data/dump\n"
    "  megacpt tokenize chat.jsonl --chat --tokenizer models/llama \\\n"
    "      --output data/chat --pack 2048\n"
    "The same command again goes on from the finished pieces. On several machines:\n"
    "  megacpt tokenize corpus/ --tokenizer models/llama --output data/law --task 0/2\n"
    "  megacpt tokenize corpus/ --tokenizer models/llama --output data/law --task 1/2\n"
    "  megacpt tokenize --merge --output data/law",
    add_arguments=_tokenize_arguments,
    run=_tokenize,
)
