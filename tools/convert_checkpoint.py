# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint between a Hugging Face folder and the native format: ``megacpt convert``.

python tools/convert_checkpoint.py models/llama checkpoints/llama
python tools/convert_checkpoint.py runs/law models/llama-law --dtype bf16
"""

from __future__ import annotations

import sys

from megacpt.cli import main


def run(argv: list[str] | None = None) -> int:
    return main(["convert", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(run())
