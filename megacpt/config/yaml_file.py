# SPDX-License-Identifier: Apache-2.0
"""A YAML file of settings as a tree of the texts that were written, dotted keys taken apart.

YAML's own guesses are not asked: a source may be named ``no`` or ``2024``, and ``24:00:00`` is no
number of base 60. What a value must be is known to the schema, which reads a text as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from megacpt.config.schema import spelled
from megacpt.errors import ConfigError, Violation

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Keys are the texts that were written, and so are values, but for null."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is not one word", key.start_mark)
            if key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
            if key.value in seen:
                raise ConstructorError(None, None, f"second key {key.value}", key.start_mark)
            seen.add(key.value)
        return node


for _kind in ("bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_yaml_str)
for _kind in ("binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_undefined)


def load_texts(path: Path) -> dict[str, Any]:
    """What a file holds, as it is written; ConfigError where it is no YAML of keys and values."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            tree = yaml.load(file, Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise _endless(path) from error
    if not isinstance(tree, dict | None):
        raise ConfigError(
            f"{path} holds {type(tree).__name__} at its top; it must hold `key: value`."
        )
    return tree or {}


def nested(tree: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """``a.b: 1`` and ``a: {b: 1}`` at the same place; ConfigError where both are written."""
    made: dict[str, Any] = {}
    try:
        problems = list(_lay_in(made, tree=tree, above="", file=path))
    except RecursionError as error:
        raise _endless(path) from error
    if problems:
        raise ConfigError(problems)
    return made


def _endless(path: Path) -> ConfigError:
    return ConfigError(f"{path} holds a value inside itself, or one too deep; write it out.")


def one_line(error: BaseException) -> str:
    """The parts of a library's message that are not blank, on one line."""
    text = str(error) or str(error.__cause__)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _lay_in(
    made: dict[str, Any], *, tree: Mapping[str, Any], above: str, file: Path
) -> Iterator[Violation]:
    for dotted, value in tree.items():
        path, (*sections, last) = f"{above}{dotted}", dotted.split(".")
        place: Any = made
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not all((*sections, last)):
            yield _wrong(path, value=value, rule=f"has an empty part ({file})", remedy="name it")
        elif not isinstance(place, dict) or (last in place and not _sections(place[last], value)):
            yield _wrong(
                path,
                value=value,
                rule=f"is set a second time ({file})",
                remedy="write each setting once, below its section or as a dotted key",
            )
        elif isinstance(value, Mapping):
            below = place.setdefault(last, {})
            yield from _lay_in(below, tree=value, above=f"{path}.", file=file)
        else:
            place[last] = value


def _sections(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _wrong(path: str, *, value: object, rule: str, remedy: str) -> Violation:
    return Violation(path=path, value=spelled(value), rule=rule, remedy=remedy)
