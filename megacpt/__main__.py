# SPDX-License-Identifier: Apache-2.0
"""``python -m megacpt`` is the ``megacpt`` command."""

import sys

from megacpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
