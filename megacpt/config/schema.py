# SPDX-License-Identifier: Apache-2.0
"""A tree of plain values against the section dataclasses: every problem found, then the objects.

OmegaConf's structured configs do the conversion of each value; this module finds all problems of a
tree at once and words them for people.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megacpt.config.foreign import counterpart_of, suggestion
from megacpt.config.limits import limits_of
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError, Violation
from megacpt.text import one_of

MISSING_TEXT = "???"
"""OmegaConf's own mark of a value that is still to be given."""
BASED = re.compile("[-+]?0[xXoObB]_?[0-9a-fA-F_]+")
OCTAL = re.compile("[-+]?0[0-9_]+")
DIGITS_MAX = 30
"""More digits than any setting has; keeps ``1e999999`` from being written out."""

Config = typing.TypeVar("Config")
Where = Callable[[str], str]
"""Names where the value of a key was written, for messages; may be empty."""


def to_run_config(tree: Mapping[str, Any], *, where: Where = lambda path: "") -> RunConfig:
    return to_config(tree, schema=RunConfig, where=where)


def to_config(
    tree: Mapping[str, Any], *, schema: type[Config], where: Where = lambda path: ""
) -> Config:
    """The typed configuration; ConfigError lists every unknown key and unusable value."""
    section: type = schema
    tree = _spelt_out(tree, hint=section)
    problems = list(_problems(tree, section=section, path="", where=where))
    if problems:
        raise ConfigError(problems)
    merged = OmegaConf.merge(_defaults(section), dict(tree))
    return typing.cast(Config, OmegaConf.to_object(merged))


def to_tree(config: RunConfig) -> dict[str, Any]:
    """Plain values; enums become their names."""
    node = OmegaConf.structured(config)
    return typing.cast(dict[str, Any], OmegaConf.to_container(node, enum_to_str=True))


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; an empty mapping has no leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves |= flatten(value, prefix=f"{path}.")
        else:
            leaves[path] = value
    return leaves


def known_keys(section: type = RunConfig, *, prefix: str = "") -> list[str]:
    """Every key of the tree, sections included; entries of a mapping are written ``NAME``."""
    keys: list[str] = []
    for name, hint in get_type_hints(section).items():
        path = f"{prefix}{name}"
        keys.append(path)
        inner, entry = section_of(hint), entry_of(hint)
        if inner is not None:
            keys += known_keys(inner, prefix=f"{path}.")
        if entry is not None:
            keys += known_keys(entry, prefix=f"{path}.NAME.")
    return keys


def section_of(hint: object) -> type | None:
    """The dataclass of a section field, also where it is optional."""
    return next((t for t in _alternatives(hint) if is_dataclass(t) and isinstance(t, type)), None)


def entry_of(hint: object) -> type | None:
    """The dataclass of the entries of a mapping field."""
    return typing.cast(type, get_args(hint)[1]) if get_origin(hint) is dict else None


def leaf_of(hint: object) -> type:
    """The scalar type of a leaf field, also where it is optional."""
    return typing.cast(type, next(t for t in _alternatives(hint) if t is not type(None)))


def type_at(path: str) -> object:
    """Of the setting at ``path``, ``None`` if there is none; below a mapping field any name is an
    entry."""
    hint: object = RunConfig
    for part in path.split(".") if path else []:
        section, entry = section_of(hint), entry_of(hint)
        below = get_type_hints(section).get(part) if section is not None else None
        hint = entry if entry is not None else below
    return hint


def choices_of(field: Field[Any], *, leaf: type) -> tuple[str, ...]:
    """The words that a leaf field may be; empty for numbers and free text."""
    if issubclass(leaf, Enum):
        return tuple(leaf.__members__)
    limits = limits_of(field)
    return limits.choices if limits is not None else ()


def is_optional(hint: object) -> bool:
    return type(None) in _alternatives(hint)


def _alternatives(hint: object) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _spelt_out(value: Any, *, hint: object) -> Any:
    """The value with whole numbers as such where they are wanted: ``1e3``, ``0x10``, ``2.5e9``."""
    inner, entry = section_of(hint), entry_of(hint)
    if isinstance(value, Mapping):
        hints = get_type_hints(inner) if inner is not None else {}
        return {key: _spelt_out(v, hint=hints.get(key, entry)) for key, v in value.items()}
    wanted = inner is None and entry is None and hint is not None and leaf_of(hint) is int
    return _whole_number(value) if wanted and isinstance(value, str | float) else value


def _whole_number(value: str | float) -> Any:
    text = str(value).strip()
    try:
        if BASED.fullmatch(text):
            return int(text, 0)
        number = Decimal(text)
    except (ValueError, ArithmeticError):
        return value
    is_whole = number.is_finite() and number.adjusted() < DIGITS_MAX and number == int(number)
    return int(number) if is_whole and not OCTAL.fullmatch(text) else value


def _problems(tree: Any, *, section: type, path: str, where: Where) -> Iterator[Violation]:
    hints = get_type_hints(section)
    node = _to_try_on(section)
    for key, value in tree.items():
        below = f"{path}{key}"
        if key not in hints:
            siblings = [f"{path}{name}" for name in hints]
            yield from _unknown(below, value=value, section=section, siblings=siblings, where=where)
        else:
            yield from _value_problems(value, hint=hints[key], node=node, path=below, where=where)
    for field in fields(section):
        if _required(field) and field.name not in tree:
            yield Violation(
                path=f"{path}{field.name}",
                value=None,
                rule="has no default",
                remedy=f"set {path}{field.name}",
            )


@cache
def _to_try_on(section: type) -> DictConfig:
    """What values of the section are set in, to see whether they can be; making it takes longer."""
    return typing.cast(DictConfig, OmegaConf.structured(section))


@cache
def _defaults(schema: type) -> DictConfig:
    """Only to be copied, as merging does; making it takes longer."""
    return typing.cast(DictConfig, OmegaConf.structured(schema))


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value_problems(
    value: Any, *, hint: object, node: DictConfig, path: str, where: Where
) -> Iterator[Violation]:
    """``node``: the section that holds the value, to try it on."""
    inner, entry = section_of(hint), entry_of(hint)
    if inner is None and entry is None:
        yield from _leaf_problems(value, hint=hint, node=node, path=path, where=where)
    elif value is None and is_optional(hint):
        return
    elif not isinstance(value, Mapping):
        rule = "has no value" if value is None else "is a section of settings, not a value"
        yield Violation(
            path=path,
            value=spelled(value),
            rule=f"{rule}{_at(where, path=path)}",
            remedy=f"set one of its keys, as in {_example(path, hint=hint)}",
        )
    elif inner is not None:
        yield from _problems(value, section=inner, path=f"{path}.", where=where)
    else:
        for name, item in value.items():
            below = f"{path}.{name}"
            if not _is_sound(name):
                yield _unsound(below, place=_at(where, path=below))
            else:
                yield from _value_problems(item, hint=entry, node=node, path=below, where=where)


def _example(path: str, *, hint: object) -> str:
    key = next(k for k in _keys_below(hint) if "." not in k.removeprefix("NAME."))
    return f"{path}.{key}=..."


def _keys_below(hint: object) -> list[str]:
    inner, entry = section_of(hint), entry_of(hint)
    if inner is not None:
        return known_keys(inner)
    return [f"NAME.{key}" for key in known_keys(entry)] if entry is not None else []


def _is_sound(name: object) -> bool:
    """Whether an entry may have the name, which becomes part of files' and metrics' names."""
    return isinstance(name, str) and name.replace("_", "a").replace("-", "a").isalnum()


def _unsound(path: str, *, place: str) -> Violation:
    return Violation(
        path=path,
        value="{...}",
        rule=f"has a name with other signs than letters, digits, _ and -{place}",
        remedy="rename it",
    )


def _leaf_problems(
    value: Any, *, hint: object, node: DictConfig, path: str, where: Where
) -> Iterator[Violation]:
    field = path.rsplit(".", 1)[-1]
    try:
        node[field] = value
        problem = _unclear(value, hint=hint, path=path)
    except OmegaConfBaseException:
        problem = _expected(leaf_of(hint), value=value)
    if problem is not None:
        rule, remedy = problem
        yield Violation(
            path=path, value=spelled(value), rule=f"{rule}{_at(where, path=path)}", remedy=remedy
        )


def _unclear(value: Any, *, hint: object, path: str) -> tuple[str, str] | None:
    """Rule and remedy for what says nothing, or not one thing; a variable may be empty."""
    leaf, text = leaf_of(hint), str(value).strip()
    if leaf is int and OCTAL.fullmatch(text):
        return "is one number in YAML 1.1 and another elsewhere", "write it without the 0 in front"
    if text == MISSING_TEXT or (text == "" and not path.startswith("kernels.environment.")):
        other = f"{path}=null" if is_optional(hint) else "leave it out for the default"
        return "has no value", f"give it one, or {other}"
    return None


def _expected(leaf: type, *, value: object) -> tuple[str, str]:
    if value is None or value == "":
        return "has no value", "give it one, or leave it out for the default"
    if issubclass(leaf, Enum):
        return "is not one of the allowed values", f"use {one_of(leaf.__members__)}"
    return {
        bool: ("is neither true nor false", "use true or false"),
        int: ("is not a whole number", "use a whole number such as 8"),
        float: ("is not a number", "use a number such as 0.1 or 2e-5"),
        str: ("is not a text", "use one text; quote it if it holds commas or brackets"),
    }[leaf]


def spelled(value: object) -> str:
    """A value of any kind, in a message."""
    if isinstance(value, Mapping):
        return "{...}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _at(where: Where, *, path: str) -> str:
    place = where(path)
    return f" ({place})" if place else ""


def _unknown(
    path: str, *, value: object, section: type, siblings: list[str], where: Where
) -> Iterator[Violation]:
    """One problem, or where a section of another trainer is meant, one for each known key of it."""
    below = flatten(value, prefix=f"{path}.") if isinstance(value, Mapping) else {}
    foreign = {key: v for key, v in below.items() if counterpart_of(key) is not None}
    whole = counterpart_of(path)
    if (whole and not whole.change) or _closest(path, keys=siblings, cutoff=0.6):
        foreign = {}
    for key, item in (foreign or {path: value}).items():
        yield Violation(
            path=key,
            value=spelled(item),
            rule=f"is not a setting{_at(where, path=key)}",
            remedy=_dotted_name(path, value=value, section=section)
            or hint(key, value=item, siblings=siblings),
        )


def _dotted_name(path: str, *, value: object, section: type) -> str:
    """What to do about ``data.sources.v1.5.prefix``, if this is one."""
    names = get_type_hints(section)
    if (
        section not in _entries()
        or not isinstance(value, Mapping)
        or names.keys().isdisjoint(value)
    ):
        return ""
    above, name, rest = path.rsplit(".", 2)
    return f"a name has no dot: write {above}.{name}_{rest}.{next(k for k in value if k in names)}"


@cache
def _entries(section: type = RunConfig) -> frozenset[type]:
    """The dataclasses whose fields stand below a name."""
    found: set[type] = set()
    for annotation in get_type_hints(section).values():
        inner, entry = section_of(annotation), entry_of(annotation)
        found |= {entry} if entry is not None else set()
        for below in (inner, entry):
            found |= _entries(below) if below is not None else set()
    return frozenset(found)


def hint(path: str, *, value: object = "", siblings: list[str]) -> str:
    """What may be meant by a key that does not exist: another trainer's name for one, a sibling or
    any key with a like last part; else the keys there are."""
    near = _closest(path, keys=siblings, cutoff=0.6) or _closest(
        path, keys=known_keys(), cutoff=0.75
    )
    if found := suggestion(path, value=value):
        return found
    if near is not None:
        return f"did you mean {near}?"
    section = path.rpartition(".")[0]
    names = ", ".join(key.rsplit(".", 1)[-1] for key in siblings)
    return f"the keys of {section} are {names}" if section else f"the sections are {names}"


def _closest(path: str, *, keys: list[str], cutoff: float) -> str | None:
    names = [key.rsplit(".", 1)[-1] for key in keys]
    close = difflib.get_close_matches(path.rsplit(".", 1)[-1], names, n=1, cutoff=cutoff)
    return keys[names.index(close[0])] if close else None
