# SPDX-License-Identifier: Apache-2.0
"""What can follow on a command line: setting names, group options and the values of a setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from megacpt.config.compose import group_options
from megacpt.config.paths import configs_root
from megacpt.config.schema import choices_of, entry_of, leaf_of, section_of, type_at

PATH_KEYS = ("path", "prefix", "prompts", "run_dir")


def candidates(typed: str) -> list[str]:
    """Full words that start with ``typed``; one ending in ``.`` or ``=`` goes on."""
    key, equals, value = typed.partition("=")
    found = _values(key, typed=value) if equals else _keys(key)
    words = sorted(word for word in found if word.startswith(typed))
    # A shell ends a lone word with a space; show what is below it instead.
    return candidates(words[0]) if len(words) == 1 and words[0].endswith(".") else words


def _keys(typed: str) -> list[str]:
    """Group names, and the settings one level below what is typed, so that lists stay short."""
    parent, _, _ = typed.rpartition(".")
    if entry_of(type_at(parent)) is not None:
        return [f"{parent}.", f"{parent}.NAME."]
    hints = _hints_below(parent)
    prefix = f"{parent}." if parent else ""
    groups = [] if parent else [f"{group}=" for group in group_options([configs_root()])]
    return groups + [
        f"{prefix}{name}{'.' if section_of(h) or entry_of(h) else '='}" for name, h in hints.items()
    ]


def _values(key: str, *, typed: str) -> list[str]:
    options = group_options([configs_root()]).get(key)
    if options is None:
        options = _leaf_values(key, typed=typed)
    return [f"{key}={option}" for option in options]


def _leaf_values(key: str, *, typed: str) -> list[str]:
    parent, _, name = key.rpartition(".")
    hint, section = _hints_below(parent).get(name), section_of(type_at(parent))
    if hint is None or section is None or section_of(hint) or entry_of(hint):
        return []
    leaf = leaf_of(hint)
    if leaf is bool:
        return ["true", "false"]
    field = next(field for field in fields(section) if field.name == name)
    return list(choices_of(field, leaf=leaf)) or (_paths(typed) if name in PATH_KEYS else [])


def _paths(typed: str) -> list[str]:
    """Files and folders; a token shard is offered without its ending."""
    folder = Path(typed).parent if typed and not typed.endswith("/") else Path(typed or ".")
    if not folder.is_dir():
        return []
    shown = "" if str(folder) == "." else f"{str(folder).rstrip('/')}/"
    names = [f"{p.name}/" if p.is_dir() else p.name.removesuffix(".idx") for p in folder.iterdir()]
    return [f"{shown}{name}" for name in names if not name.endswith(".bin")]


def _hints_below(path: str) -> dict[str, object]:
    """Field types of the section at ``path``; none where there is no such section."""
    section = section_of(type_at(path))
    return dict(get_type_hints(section)) if section is not None else {}
