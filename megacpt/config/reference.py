# SPDX-License-Identifier: Apache-2.0
"""The table of all settings in docs/config.md, made from the section dataclasses.

Types, limits and defaults are those of the dataclasses; docstrings of fields, which Python does not
keep, are read from the source text. The table stands between two comment lines of the page; all
else there is written by hand.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from megacpt.config import sections
from megacpt.config.limits import limits_of
from megacpt.config.schema import choices_of, entry_of, is_optional, leaf_of, section_of
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError

BEGIN = "<!-- settings: written by tools/config_reference.py -->"
END = "<!-- end of settings -->"
TYPE_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}

FieldTexts = dict[str, dict[str, str]]
"""Class -> field -> its docstring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A row: all four in words, as Markdown."""

    key: str
    type: str
    default: str
    meaning: str


def page_with_table(page: str, *, path: Path) -> str:
    """The page with the present table between its two comment lines."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"{path} must hold the lines {BEGIN!r} and {END!r}; add them.")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """Markdown: a heading and a table for each section, in the order of RunConfig."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings():
        section, dot, _ = setting.key.partition(".")
        groups.setdefault(section if dot else "Top level", []).append(setting)
    return "\n".join(_section(title, rows=rows) for title, rows in groups.items())


def _section(title: str, *, rows: list[Setting]) -> str:
    lines = [f"| `{r.key}` | {r.type} | {r.default} | {r.meaning} |" for r in rows]
    head = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([f"### {title}", "", *head, *lines, ""])


def settings() -> list[Setting]:
    """Every setting of a run; ``NAME`` stands for the name of an entry."""
    return list(_settings_of(RunConfig, prefix="", texts=field_texts(inspect.getsource(sections))))


def field_texts(source: str) -> FieldTexts:
    """The string that follows each field of each class, on one line."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_texts_of(node)) for node in classes}


def _texts_of(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, follower in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(follower, ast.Expr)
            and isinstance(follower.value, ast.Constant)
        ):
            yield ast.unparse(statement.target), " ".join(str(follower.value.value).split())


def _settings_of(section: type, *, prefix: str, texts: FieldTexts) -> Iterator[Setting]:
    hints = get_type_hints(section)
    for field in fields(section):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        inner, entry = section_of(hint), entry_of(hint)
        row = Setting(
            key=key,
            type=_type(field, hint=hint),
            default=_default(field),
            meaning=_markdown(texts[section.__name__].get(field.name) or _choices_text(hint)),
        )
        if inner is None or is_optional(hint):
            yield row
        if inner is not None:
            yield from _settings_of(inner, prefix=f"{key}.", texts=texts)
        if entry is not None:
            yield from _settings_of(entry, prefix=f"{key}.NAME.", texts=texts)


def _type(field: Field[Any], *, hint: object) -> str:
    if entry_of(hint) is not None:
        return "entries by name"
    words = "section" if section_of(hint) is not None else _leaf_type(field, leaf=leaf_of(hint))
    return f"{words}, or `null`" if is_optional(hint) else words


def _leaf_type(field: Field[Any], *, leaf: type) -> str:
    if choices := choices_of(field, leaf=leaf):
        return ", ".join(f"`{name}`" for name in choices)
    limits = limits_of(field)
    return f"{TYPE_NAMES[leaf]}{limits.range()}" if limits else TYPE_NAMES[leaf]


def _choices_text(hint: object) -> str:
    """What the class of the choices says, for a field that says nothing itself; on one line."""
    if section_of(hint) is not None or entry_of(hint) is not None:
        return ""
    leaf = leaf_of(hint)
    text = inspect.getdoc(leaf) if issubclass(leaf, Enum) else None
    return " ".join((text or "").split())


def _default(field: Field[Any]) -> str:
    """As it is written in a YAML file or on the command line."""
    if field.default_factory is not MISSING:
        return "none"
    if field.default is MISSING:
        return "must be set"
    value = field.default.name if isinstance(field.default, Enum) else field.default
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or isinstance(value, bool) else value}`"


def _markdown(text: str) -> str:
    return text.replace("``", "`").replace("*", "\\*").replace("|", "\\|")
