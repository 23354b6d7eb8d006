# SPDX-License-Identifier: Apache-2.0
"""The verb that lists what can be trained: families."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from megacpt.commands.common import Verb, say


def _families(arguments: argparse.Namespace) -> int:
    from megacpt.families.stored.nearest import MISSING
    from megacpt.plan.families import families_text, family_rows

    rows = family_rows()
    if arguments.json:
        found = {"families": [asdict(row) for row in rows], "refused": dict(MISSING)}
        print(json.dumps(found, indent=2))
        return 0
    print(families_text(rows))
    say(next_command="megacpt plan model.path=FOLDER data.sources.NAME.prefix=SHARD")
    return 0


def _families_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, with the reason of each no")


FAMILIES = Verb(
    name="families",
    summary="list the models that can be trained, and on which layouts",
    example="  megacpt families --json",
    add_arguments=_families_arguments,
    run=_families,
)
