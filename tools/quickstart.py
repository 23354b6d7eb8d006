# SPDX-License-Identifier: Apache-2.0
"""``make quickstart``: SmolLM2-135M learns the English of 1623, on this machine, in minutes."""

import os
import sys
from functools import partial
from pathlib import Path

from megacpt.demo.quickstart import run
from megacpt.errors import MegacptError


def main() -> int:
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        return run(partial(print, flush=True))
    except MegacptError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted; make quickstart goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
