# SPDX-License-Identifier: Apache-2.0
"""Write the table of all settings into docs/config.md: ``python tools/config_reference.py``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megacpt.config.reference import page_with_table
from megacpt.errors import MegacptError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "config.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help="default: docs/config.md")
    page: Path = parser.parse_args(argv).page
    try:
        page.write_text(page_with_table(page.read_text(encoding="utf-8"), path=page), "utf-8")
    except MegacptError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"Wrote the settings into {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
