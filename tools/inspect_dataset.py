# SPDX-License-Identifier: Apache-2.0
"""What is in a token shard; the same as ``megacpt inspect``.

python tools/inspect_dataset.py data/law --tokenizer models/llama --picture law.png
"""

from __future__ import annotations

import sys

from megacpt.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
