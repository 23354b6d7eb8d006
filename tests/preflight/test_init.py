# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from megacpt.config.sections import PreflightConfig, PreflightWhen
from megacpt.device.environment import RankInfo
from megacpt.preflight import is_wanted


@pytest.mark.parametrize(
    ("when", "world", "local", "wanted"),
    [
        (PreflightWhen.nodes, 1, 1, False),
        (PreflightWhen.nodes, 4, 4, False),
        (PreflightWhen.nodes, 4, 2, True),
        (PreflightWhen.always, 4, 4, True),
        (PreflightWhen.never, 4, 2, False),
    ],
)
def test_one_machine_is_not_looked_at_unless_asked(
    when: PreflightWhen, world: int, local: int, wanted: bool
) -> None:
    ranks = RankInfo(world_size=world, local_world_size=local)
    assert is_wanted(PreflightConfig(when=when), ranks=ranks) is wanted


def test_a_start_without_it_loads_none_of_it() -> None:
    code = "import sys, megacpt.train.rank\nassert 'megacpt.preflight.preflight' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
