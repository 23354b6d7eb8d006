# SPDX-License-Identifier: Apache-2.0
"""What a run tells wandb, beside what the user tells it by wandb's own variables.

A setting of ``monitor`` goes over its variable, and a line says so. A default of ours is left out
where the user's variable is set, so that wandb reads it. Variables that stand nowhere here are
wandb's alone (WANDB_TAGS, WANDB_NOTES, WANDB_BASE_URL ...).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.config.sections import MonitorConfig, WandbMode
from megacpt.errors import ConfigError, EnvironmentError_, Violation

PROJECT = "megacpt"
_MODES = {
    "online": WandbMode.online,
    "run": WandbMode.online,
    "offline": WandbMode.offline,
    "dryrun": WandbMode.offline,
    "disabled": WandbMode.disabled,
}
"""WANDB_MODE as wandb spells it; of its ``shared``, steps cannot be counted."""
_TRUE = ("1", "true", "yes", "on")
_CODE = ("WANDB_DISABLE_CODE", "WANDB_SAVE_CODE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    mode: WandbMode
    """Never ``auto``."""
    arguments: Mapping[str, Any]
    """Of ``wandb.init``."""
    settings: Mapping[str, Any]
    """Of ``wandb.Settings``."""
    online_by: str | None
    """What asks for ``online``; None: nothing does, so that offline will do as well."""
    notes: tuple[str, ...]
    """The variables that are not followed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Argument:
    name: str
    variable: str
    asked: Any
    """By a setting, or by what the run has done before; None: by nothing."""
    why: str
    default: Any = None

    def value(self, variables: Mapping[str, str]) -> Any:
        """None: wandb's own, or the variable's."""
        return self.default if self.asked is None and self.variable not in variables else self.asked

    def note(self, variables: Mapping[str, str]) -> str | None:
        theirs = variables.get(self.variable)
        if theirs is None or self.asked is None or theirs == self.asked:
            return None
        return f"{self.variable}={theirs} is not followed: {self.why}"


def settle(
    monitor: MonitorConfig,
    *,
    run_dir: Path,
    known_id: str | None,
    variables: Mapping[str, str],
    has_api_key: bool,
    connect_s: float,
) -> Chosen:
    """``known_id``: the run that earlier starts have begun. ``variables``: the user's WANDB_*."""
    mode = choose_mode(monitor.wandb, has_api_key=has_api_key, variables=variables)
    rows = _arguments(monitor, run_dir=run_dir, known_id=known_id)
    values = {row.name: row.value(variables) for row in rows}
    notes = [_mode_note(mode, variables=variables), *(row.note(variables) for row in rows)]
    return Chosen(
        mode=mode,
        arguments={n: v for n, v in values.items() if v is not None} | {"mode": mode.value},
        settings=dict(_settings(variables, connect_s=connect_s)),
        online_by=_online_by(monitor.wandb, variables=variables),
        notes=tuple(note for note in notes if note is not None and mode is not WandbMode.disabled),
    )


def choose_mode(
    wanted: WandbMode, *, has_api_key: bool, variables: Mapping[str, str] | None = None
) -> WandbMode:
    """``auto`` resolved; ``online`` without a key would stop and ask, so it is refused."""
    if wanted is WandbMode.online and not has_api_key:
        raise ConfigError(
            [
                Violation(
                    path="monitor.wandb",
                    value="online",
                    rule="needs WANDB_API_KEY, which is not set",
                    remedy="set it, or use monitor.wandb=auto to log offline until it is",
                )
            ]
        )
    if wanted is not WandbMode.auto:
        return wanted
    asked = _asked_mode(variables or {})
    return asked or (WandbMode.online if has_api_key else WandbMode.offline)


def _asked_mode(variables: Mapping[str, str]) -> WandbMode | None:
    """By variables. wandb itself has forgotten WANDB_DISABLED, other trainers and users not."""
    if variables.get("WANDB_DISABLED", "").lower() in _TRUE:
        return WandbMode.disabled
    text = variables.get("WANDB_MODE")
    if text is not None and text not in _MODES:
        raise EnvironmentError_(
            f"WANDB_MODE={text} is none of {', '.join(_MODES)}; unset it or use one of them."
        )
    return _MODES[text] if text is not None else None


def _online_by(wanted: WandbMode, *, variables: Mapping[str, str]) -> str | None:
    if wanted is WandbMode.auto:
        asked = _asked_mode(variables) is WandbMode.online
        return f"WANDB_MODE={variables['WANDB_MODE']}" if asked else None
    return "monitor.wandb=online" if wanted is WandbMode.online else None


def _mode_note(mode: WandbMode, *, variables: Mapping[str, str]) -> str | None:
    asked = _asked_mode(variables)
    if asked is None or asked is mode:
        return None
    name = "WANDB_DISABLED" if asked is WandbMode.disabled else "WANDB_MODE"
    name = name if name in variables else "WANDB_MODE"
    return f"{name}={variables[name]} is not followed: monitor.wandb={mode.value}"


def _arguments(
    monitor: MonitorConfig, *, run_dir: Path, known_id: str | None
) -> tuple[_Argument, ...]:
    return (
        _Argument(
            name="project",
            variable="WANDB_PROJECT",
            asked=monitor.wandb_project,
            why=f"monitor.wandb_project={monitor.wandb_project}",
            default=PROJECT,
        ),
        _Argument(
            name="entity",
            variable="WANDB_ENTITY",
            asked=monitor.wandb_entity,
            why=f"monitor.wandb_entity={monitor.wandb_entity}",
        ),
        _Argument(
            name="name",
            variable="WANDB_NAME",
            asked=monitor.wandb_name,
            why=f"monitor.wandb_name={monitor.wandb_name}",
            default=run_dir.resolve().name,
        ),
        _Argument(
            name="id",
            variable="WANDB_RUN_ID",
            asked=known_id,
            why=f"this run goes on with {known_id} ({run_dir / 'wandb_id'})",
            default=secrets.token_hex(4),
        ),
        _Argument(
            name="resume",
            variable="WANDB_RESUME",
            asked="allow",
            why="each start goes on with the wandb run of the one before",
        ),
        _Argument(name="dir", variable="WANDB_DIR", asked=None, why="", default=run_dir),
    )


def _settings(variables: Mapping[str, str], *, connect_s: float) -> Iterator[tuple[str, Any]]:
    """Nothing on the terminal, and no code, git state or output sent, unless the user's own
    variables ask for it."""
    for name, value, theirs in (
        ("silent", True, ("WANDB_SILENT",)),
        ("console", "off", ("WANDB_CONSOLE",)),
        ("disable_code", True, _CODE),
        ("save_code", False, _CODE),
        ("disable_git", True, ("WANDB_DISABLE_GIT",)),
        ("disable_job_creation", True, ("WANDB_DISABLE_JOB_CREATION",)),
        ("init_timeout", connect_s, ("WANDB_INIT_TIMEOUT",)),
    ):
        if not any(variable in variables for variable in theirs):
            yield name, value
