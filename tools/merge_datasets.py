# SPDX-License-Identifier: Apache-2.0
"""Join token shards into one, with the flags of Megatron-LM's tool of this name.

python tools/merge_datasets.py --input FOLDER --output-prefix data/all
python tools/merge_datasets.py data/b data/a --output-prefix data/all
"""

from __future__ import annotations

import argparse
import sys

from megacpt.cli import main
from megacpt.errors import MegacptError
from megacpt.shards.merge import shards_in


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--input", metavar="FOLDER", help="merge all its shards, by name")
    which.add_argument("prefixes", nargs="*", default=[], metavar="PREFIX", help="in this order")
    parser.add_argument("--output-prefix", required=True, help="writes PREFIX.bin, .idx and .json")
    return parser.parse_args(argv)


def run(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        prefixes = shards_in(arguments.input) if arguments.input else arguments.prefixes
    except MegacptError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    words = ["merge", *map(str, prefixes), "--output", arguments.output_prefix]
    return main(words)


if __name__ == "__main__":
    sys.exit(run())
