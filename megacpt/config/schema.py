# SPDX-License-Identifier: Apache-2.0
"""A tree of plain values against the section dataclasses: every problem found, then the objects.

OmegaConf's structured configs do the conversion of each value; this module finds all problems of a
tree at once and words them for people.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError, Violation
from megacpt.text import one_of

Where = Callable[[str], str]
"""Names where the value of a key was written, for messages; may be empty."""


def to_run_config(tree: Mapping[str, Any], *, where: Where = lambda path: "") -> RunConfig:
    """The typed configuration; ConfigError lists every unknown key and unusable value."""
    problems = list(_problems(tree, section=RunConfig, path="", where=where))
    if problems:
        raise ConfigError(problems)
    merged = OmegaConf.merge(OmegaConf.structured(RunConfig), dict(tree))
    return typing.cast(RunConfig, OmegaConf.to_object(merged))


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


def is_optional(hint: object) -> bool:
    return type(None) in _alternatives(hint)


def _alternatives(hint: object) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _problems(tree: Any, *, section: type, path: str, where: Where) -> Iterator[Violation]:
    hints = get_type_hints(section)
    # One for all values of the section: it takes longer to make than all they take to be tried.
    node = OmegaConf.structured(section)
    for key, value in tree.items():
        below = f"{path}{key}"
        if key not in hints:
            yield _unknown(
                below, value=value, siblings=[f"{path}{name}" for name in hints], where=where
            )
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
        yield Violation(
            path=path,
            value=_show(value),
            rule=f"is a section of settings, not a value{_at(where, path=path)}",
            remedy=f"set one of its keys, as in {_example(path, hint=hint)}",
        )
    elif inner is not None:
        yield from _problems(value, section=inner, path=f"{path}.", where=where)
    else:
        for name, item in value.items():
            yield from _value_problems(
                item, hint=entry, node=node, path=f"{path}.{name}", where=where
            )


def _example(path: str, *, hint: object) -> str:
    key = next(k for k in _keys_below(hint) if "." not in k.removeprefix("NAME."))
    return f"{path}.{key}=..."


def _keys_below(hint: object) -> list[str]:
    inner, entry = section_of(hint), entry_of(hint)
    if inner is not None:
        return known_keys(inner)
    return [f"NAME.{key}" for key in known_keys(entry)] if entry is not None else []


def _leaf_problems(
    value: Any, *, hint: object, node: DictConfig, path: str, where: Where
) -> Iterator[Violation]:
    field = path.rsplit(".", 1)[-1]
    try:
        node[field] = value
    except OmegaConfBaseException:
        rule, remedy = _expected(leaf_of(hint))
        yield Violation(
            path=path, value=_show(value), rule=f"{rule}{_at(where, path=path)}", remedy=remedy
        )


def _expected(leaf: type) -> tuple[str, str]:
    if issubclass(leaf, Enum):
        names = list(leaf.__members__)
        return "is not one of the allowed values", f"use {one_of(names)}"
    return {
        bool: ("is neither true nor false", "use true or false"),
        int: ("is not a whole number", "use a whole number such as 8"),
        float: ("is not a number", "use a number such as 0.1 or 2e-5"),
        str: ("is not a text", "use one text; quote it if it holds commas or brackets"),
    }[leaf]


def _show(value: object) -> str:
    return "null" if value is None else str(value)


def _at(where: Where, *, path: str) -> str:
    place = where(path)
    return f" ({place})" if place else ""


def _unknown(path: str, *, value: object, siblings: list[str], where: Where) -> Violation:
    return Violation(
        path=path,
        value=_show(value),
        rule=f"is not a setting{_at(where, path=path)}",
        remedy=f"did you mean {nearest_key(path, siblings=siblings)}?",
    )


def nearest_key(path: str, *, siblings: list[str]) -> str:
    """The valid key most like ``path``: a sibling, else any with a like last part, else any."""
    leaf = path.rsplit(".", 1)[-1]
    for candidates, cutoff in ((siblings, 0.6), (known_keys(), 0.75), (known_keys(), 0.0)):
        names = [key.rsplit(".", 1)[-1] for key in candidates]
        close = difflib.get_close_matches(leaf, names, n=1, cutoff=cutoff)
        if close:
            return candidates[names.index(close[0])]
    return siblings[0]
