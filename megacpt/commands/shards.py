# SPDX-License-Identifier: Apache-2.0
"""The verbs of shards that are made: inspect, merge, pack."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from megacpt.commands.adapters import (
    add_merge_arguments,
    merge_adapter,
    require_no_adapter,
)
from megacpt.commands.common import Verb, plan_command, say, shown, slow_progress
from megacpt.commands.model import tokenizer_path
from megacpt.errors import ConfigError

SAMPLES = 2


def _inspect(arguments: argparse.Namespace) -> int:
    if arguments.history:
        return _history(arguments)
    from megacpt.monitor.dataset_text import shard_text
    from megacpt.shards.inspect import SAMPLED_TOKENS, inspect_shard, to_json
    from megacpt.shards.manifest import verify
    from megacpt.tokenizer import load_tokenizer

    if arguments.samples is not None and arguments.tokenizer is None:
        raise ConfigError("--samples decodes tokens; name the model's folder with --tokenizer.")
    if arguments.picture is not None:
        from megacpt.monitor.dataset_figure import draw, picture_format

        picture_format(arguments.picture)  # refused before the work, not after it
    tokenizer = load_tokenizer(tokenizer_path(arguments.tokenizer)) if arguments.tokenizer else None
    wanted = SAMPLES if arguments.samples is None else arguments.samples
    if arguments.verify:
        verify(arguments.prefix, progress=slow_progress("checksums"))
    found = inspect_shard(
        arguments.prefix,
        tokenizer=tokenizer,
        samples=wanted if tokenizer else 0,
        sampled_tokens=None if arguments.full else SAMPLED_TOKENS,
        progress=slow_progress("tokens"),
    )
    found = replace(found, verified=arguments.verify)
    if arguments.picture is not None:
        draw(found, path=arguments.picture)
    if arguments.json:
        print(to_json(found))
        return 0
    print(shard_text(found))
    drawn = [f"Wrote {shown(arguments.picture)}"] if arguments.picture else []
    say(*drawn, next_command=plan_command(arguments.prefix, tokenizer=arguments.tokenizer))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from megacpt.commands.history import history_of, verify_all

    if arguments.verify:
        verify_all(arguments.prefix, progress=slow_progress("checksums"))
    print(history_of(arguments.prefix), end="")
    return 0


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix",
        type=Path,
        metavar="PREFIX",
        help="reads PREFIX.bin/.idx/.json; with --history also RUN_DIR, or a folder of curate",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="decode with the one of this model folder or hub id"
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
    parser.add_argument(
        "--history", action="store_true", help="what its text has been through, from raw files on"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


INSPECT = Verb(
    name="inspect",
    summary="show what is in a token shard: lengths, vocabulary, samples, origin",
    example="  megacpt inspect data/law --tokenizer models/llama\n"
    "  megacpt inspect data/law --full --verify --picture law.png\n"
    "  megacpt inspect runs/law --history",
    add_arguments=_inspect_arguments,
    run=_inspect,
)


def _merge(arguments: argparse.Namespace) -> int:
    if arguments.adapter is not None:
        return merge_adapter(arguments)
    require_no_adapter(arguments)
    if not arguments.inputs:
        raise ConfigError("megacpt merge needs shards (PREFIX ...), or --adapter ADAPTER.")
    from megacpt.shards.merge import merge_shards

    prefixes = [Path(prefix) for prefix in arguments.inputs]
    merged = merge_shards(
        prefixes, output_prefix=arguments.output, progress=slow_progress("merged")
    )
    output = shown(arguments.output)
    files = merged.files
    kinds = ["bin", "idx", *["mask"] * bool(files.mask_sha256), *["json"] * bool(merged.manifest)]
    say(
        f"Wrote {files.documents:,} documents, {files.tokens:,} tokens of {len(prefixes)} shards:",
        f"  {', '.join(f'{output}.{kind}' for kind in kinds)}",
        next_command=f"megacpt inspect {shlex.quote(output)}",
    )
    return 0


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="PREFIX", help="shards, in this order")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PREFIX",
        help="writes PREFIX.bin/.idx/.json, of an adapter a new folder",
    )
    add_merge_arguments(parser)


MERGE = Verb(
    name="merge",
    summary="join token shards into one, in the order given; or an adapter and its model",
    example="  megacpt merge data/law-2023 data/law-2024 --output data/law\n"
    "  megacpt merge --adapter runs/lora --output models/adapted\n"
    "  megacpt merge --adapter their-lora --base org/model --output models/adapted",
    add_arguments=_merge_arguments,
    run=_merge,
)


def _pack(arguments: argparse.Namespace) -> int:
    from megacpt.shards.packing import pack, pack_path

    length = arguments.sequence_length
    for prefix in arguments.prefixes:
        (packed,) = pack([prefix], sequence_length=length)
        print(f"Wrote {shown(pack_path(prefix, sequence_length=length))}")
        print(f"  {packed.rows:,} rows of {length:,}, {packed.fill_rate:.2%} filled")
        print(f"  {packed.documents:,} documents; {packed.cut:,} longer than a row are cut,")
        print(f"  {packed.left_out:,} without a target (one token or none) are left out")
    plan = plan_command(Path(arguments.prefixes[0]), tokenizer=None)
    say(next_command=f"{plan} data.packing=best_fit data.sequence_length={length}")
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


PACK = Verb(
    name="pack",
    summary="fill rows with whole documents, for data.packing=best_fit",
    example="  megacpt pack data/law data/general --sequence-length 2048",
    add_arguments=_pack_arguments,
    run=_pack,
)
