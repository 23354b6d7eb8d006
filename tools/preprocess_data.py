# SPDX-License-Identifier: Apache-2.0
"""Tokenize with the flags of Megatron-LM's tool of this name, by what ``megacpt tokenize`` uses.

    python tools/preprocess_data.py --input a.jsonl --json-keys text summary \\
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model models/llama \\
        --output-prefix data/a --append-eod --workers 8

writes data/a_text_document.bin and .idx (and .json, the manifest), and the same for summary.
--input takes more than one file, folders and patterns, Parquet and text as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from megacpt.commands.tokenize import account
from megacpt.corpus.documents import OnError
from megacpt.errors import MegacptError
from megacpt.shards.manifest import Manifest
from megacpt.shards.tokenize import tokenize
from megacpt.shards.tokenize.progress import ProgressLine
from megacpt.tokenizer import Tokenizer, load_tokenizer

TOKENIZER_TYPES = {
    "HuggingFaceTokenizer": True,
    "SentencePieceTokenizer": False,
    "GPTSentencePieceTokenizer": False,
    "Llama2Tokenizer": False,
    "TikTokenizer": False,
}
"""Whether documents begin as the tokenizer's own rule says (BOS); as in Megatron-LM."""
DOCUMENTS_A_SECOND = 1000
"""Turns --log-interval, in documents there, into a time here."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files, folders, patterns, or - for stdin")
    add("--json-keys", nargs="+", default=["text"], help="fields (columns), a shard for each")
    add("--output-prefix", required=True, help="writes PREFIX_KEY_document.bin, .idx and .json")
    add("--tokenizer-type", choices=list(TOKENIZER_TYPES), default="HuggingFaceTokenizer")
    add("--tokenizer-model", required=True, help="Hugging Face folder, or the tokenizer's file")
    add("--tokenizer-hf-no-include-special-tokens", action="store_true", help="never BOS")
    add("--tokenizer-settings", help="what a tiktoken file lacks: file or JSON")
    add("--append-eod", action="store_true", help="end each document with the end-of-text token")
    add("--workers", type=int, default=0, help="threads, in processes of four; 0: one a core")
    add("--on-error", choices=[p.value for p in OnError], default="stop", help="for broken lines")
    add("--log-interval", type=int, default=5000, help="a line about every so many documents")
    add("--partitions", type=int, default=1, help="taken, and not needed: the work is cut anyway")
    add("--keep-sequential-samples", action="store_true", help="taken: the order is always kept")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    try:
        tokenizer = load_tokenizer(
            arguments.tokenizer_model, settings=arguments.tokenizer_settings, fast=True
        )
        for key in arguments.json_keys:
            started_at = time.monotonic()
            prefix = f"{arguments.output_prefix}_{key}_document"
            manifest = write(arguments, tokenizer, key=key, prefix=prefix)
            elapsed_s = time.monotonic() - started_at
            print("\n".join(account(manifest, output=prefix, elapsed_s=elapsed_s)))
    except MegacptError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the finished pieces.", file=sys.stderr)
        return 130
    return 0


def write(
    arguments: argparse.Namespace, tokenizer: Tokenizer, *, key: str, prefix: str
) -> Manifest:
    line = ProgressLine(sys.stderr, every_s=max(arguments.log_interval / DOCUMENTS_A_SECOND, 0.1))
    plain = arguments.tokenizer_hf_no_include_special_tokens
    try:
        manifest = tokenize(
            [Path(name) if name != "-" else name for name in arguments.input],
            tokenizer=tokenizer,
            output_prefix=prefix,
            key=key,
            append_eos=arguments.append_eod,
            special=TOKENIZER_TYPES[arguments.tokenizer_type] and not plain,
            workers=arguments.workers,
            on_error=OnError(arguments.on_error),
            progress=line,
            notice=lambda text: print(text, file=sys.stderr),
        )
    finally:
        line.close()
    assert manifest is not None, "only a task returns nothing"
    return manifest


if __name__ == "__main__":
    sys.exit(main())
