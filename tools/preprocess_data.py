# SPDX-License-Identifier: Apache-2.0
"""Tokenize JSONL with the flags of Megatron-LM's tool of this name, by ``megacpt tokenize``.

    python tools/preprocess_data.py --input a.jsonl b.jsonl.gz --tokenizer-model HF_FOLDER \\
        --output-prefix data/a --append-eod --workers 8
"""

from __future__ import annotations

import argparse
import sys
import time

from megacpt.data.tokenize import Progress, tokenize
from megacpt.errors import MegacptError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--input", nargs="+", required=True, help="JSONL files, plain or .gz")
    parser.add_argument("--json-keys", nargs=1, default=["text"], help="field that holds the text")
    parser.add_argument("--tokenizer-model", required=True, help="Hugging Face folder")
    parser.add_argument("--output-prefix", required=True, help="writes PREFIX.bin, .idx and .json")
    parser.add_argument("--append-eod", action="store_true", help="end each document with EOS")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    started_at = time.monotonic()

    def show(progress: Progress) -> None:
        megabytes = progress.bytes_done / 1e6
        rate = megabytes / (time.monotonic() - started_at)
        print(f"\r{megabytes:.0f}/{progress.bytes_total / 1e6:.0f} MB, {rate:.1f} MB/s", end="")

    try:
        manifest = tokenize(
            arguments.input,
            tokenizer=arguments.tokenizer_model,
            output_prefix=arguments.output_prefix,
            key=arguments.json_keys[0],
            append_eos=arguments.append_eod,
            workers=arguments.workers,
            progress=show,
        )
    except MegacptError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{manifest.documents:,} documents, {manifest.tokens:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
