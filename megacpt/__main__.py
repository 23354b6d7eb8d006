# SPDX-License-Identifier: Apache-2.0
"""``python -m megacpt`` is the ``megacpt`` command."""

from megacpt.cli import entry

if __name__ == "__main__":
    entry()
