# SPDX-License-Identifier: Apache-2.0
"""Templates that make text of records: several a shape, and which it is told by the record's id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash
import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megacpt.config.yaml_file import load_texts, one_line
from megacpt.curate.rewrite.shapes import Shape
from megacpt.errors import ConfigError, DataError
from megacpt.text import listed

FOLDER = Path(__file__).with_name("templates")
BUILT_IN = {
    "neutral": (FOLDER / "neutral.yaml",),
    "english": (FOLDER / "neutral.yaml", FOLDER / "english.yaml"),
}
VALUES = {
    Shape.dialogue: ("turns",),
    Shape.question: ("question", "context", "answer"),
    Shape.choices: ("question", "context", "options", "answer", "label"),
    Shape.instruction: ("instruction", "input", "output"),
    Shape.table: ("fields",),
}
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*\n")
_VALUES_BREAK = "\udc0a"
"""Instead of a line break within a value, until the lines of the template are in order: half of a
surrogate pair, which no text holds."""


class Templates:
    """Of every shape at least one, checked and compiled."""

    def __init__(self, name: str) -> None:
        """``name``: of a set in this package, or of a file."""
        self._environment = environment()
        self._templates: dict[str, dict[str, Template]] = {}
        content = hashlib.sha256()
        for path in BUILT_IN.get(name, (Path(name),)):
            for shape, key, source in _sources(path):
                found = self._compiled(source, shape=shape, place=f"{path}: {shape.value}.{key}")
                self._templates.setdefault(shape.value, {})[key] = found
                content.update(repr((shape.value, key, source)).encode())
        self.sha256 = content.hexdigest()
        """Of all of them."""
        self._name = name

    def _compiled(self, source: str, *, shape: Shape, place: str) -> Template:
        known = VALUES[shape]
        try:
            used = meta.find_undeclared_variables(self._environment.parse(source))
            template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{place} is no template (line {error.lineno}: {error}).") from error
        if unknown := sorted(used - set(known)):
            raise ConfigError(
                f"{place} uses {listed(unknown)}, but a record of this shape has {listed(known)}."
            )
        return template

    def choose(self, shape: str, *, id: str, seed: int) -> str:
        """The name of a record's template. Another one that is added to the file takes its share of
        the records, and all others keep theirs."""
        names = self._templates.get(shape)
        if not names:
            raise ConfigError(
                f"{self._name} has no template for records of shape {shape}, such as {id}; add one."
            )
        draw = xxhash.xxh3_64_intdigest
        return max(names, key=lambda name: draw(f"{seed}\0{id}\0{name}".encode("utf-8", "replace")))

    def render(self, name: str, *, record: Mapping[str, Any], id: str) -> str:
        shape = record["shape"]
        try:
            text = self._templates[shape][name].render(record)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(
                f"the template {shape}.{name} of {self._name} fails for the record {id}: "
                f"{one_line(error)}; correct the template."
            ) from error
        return tidy(text)


def environment() -> ImmutableSandboxedEnvironment:
    """Templates see the values they are given and nothing else of this process."""
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=_kept_apart,
    )


def _kept_apart(value: object) -> object:
    return value.replace("\n", _VALUES_BREAK) if isinstance(value, str) else value


def tidy(text: str) -> str:
    """Without what a missing value leaves of the template: blank lines in a row, and at both ends.
    Values stay as they are."""
    return _BLANK_LINES.sub("\n\n", text).strip().replace(_VALUES_BREAK, "\n")


def _sources(path: Path) -> Iterator[tuple[Shape, str, str]]:
    shapes = {shape.value: shape for shape in VALUES}
    for shape, templates in load_texts(path).items():
        if shape not in shapes:
            raise ConfigError(f"{path}: {shape} is no shape; the shapes are {listed(shapes)}.")
        if not isinstance(templates, dict) or not templates:
            raise ConfigError(f"{path}: below {shape} there must be templates, NAME: TEXT.")
        for name, source in templates.items():
            if not isinstance(source, str) or not source.strip():
                raise ConfigError(f"{path}: {shape}.{name} must be the text of a template.")
            yield shapes[shape], name, source


def read_prompt(name: str) -> str:
    """The source of what a model is asked: one of this package, or a file."""
    known = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))
    if name in known:
        return str(known[name])
    try:
        source = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"rewrite.endpoint.prompt={name} is neither {listed(known)} nor a file that can be "
            f"read ({error})."
        ) from error
    try:
        used = meta.find_undeclared_variables(environment().parse(source))
    except TemplateSyntaxError as error:
        raise ConfigError(f"{name} is no template (line {error.lineno}: {error}).") from error
    if used != {"text"}:
        raise ConfigError(f"{name} must use {{{{ text }}}}, the document, and nothing else.")
    return source
