# SPDX-License-Identifier: Apache-2.0
"""Which mode settings, wandb's variables and a key come to. Real wandb: test_wandb.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.config.sections import MonitorConfig, WandbMode
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.monitor.wandb_variables import choose_mode, settle


def test_auto_is_online_only_with_a_key() -> None:
    assert choose_mode(WandbMode.auto, has_api_key=True) is WandbMode.online
    assert choose_mode(WandbMode.auto, has_api_key=False) is WandbMode.offline
    assert choose_mode(WandbMode.offline, has_api_key=True) is WandbMode.offline


def test_online_without_a_key_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"monitor\.wandb=online needs WANDB_API_KEY"):
        choose_mode(WandbMode.online, has_api_key=False)


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_DISABLED": "TRUE"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_auto_asks_wandbs_variables(variables: dict[str, str], mode: str) -> None:
    found = choose_mode(WandbMode.auto, has_api_key=False, variables=variables)
    assert found is WandbMode[mode]


@pytest.mark.parametrize("text", ["Offline", "shared", "none"])
def test_a_mode_that_is_none_is_named(text: str) -> None:
    with pytest.raises(EnvironmentError_, match=rf"WANDB_MODE={text} is none of online, run, off"):
        choose_mode(WandbMode.auto, has_api_key=True, variables={"WANDB_MODE": text})


@pytest.mark.parametrize(
    ("variables", "gone"),
    [
        ({"WANDB_SILENT": "false"}, {"silent"}),
        ({"WANDB_CONSOLE": "wrap", "WANDB_DISABLE_GIT": "false"}, {"console", "disable_git"}),
        ({"WANDB_SAVE_CODE": "true"}, {"disable_code", "save_code"}),
        ({"WANDB_INIT_TIMEOUT": "9", "WANDB_TAGS": "a"}, {"init_timeout"}),
    ],
)
def test_our_defaults_leave_room_for_the_users_variables(
    tmp_path: Path, variables: dict[str, str], gone: set[str]
) -> None:
    every, left = (
        settle(
            MonitorConfig(),
            run_dir=tmp_path,
            known_id=None,
            variables=told,
            has_api_key=False,
            connect_s=60,
        )
        for told in ({}, variables)
    )
    assert every.settings.keys() - left.settings.keys() == gone
    assert left.settings.keys() <= every.settings.keys()
    assert not left.notes
