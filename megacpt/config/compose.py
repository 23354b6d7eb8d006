# SPDX-License-Identifier: Apache-2.0
"""Compose once: group files, the user's file and the command line become one checked RunConfig.

Hydra picks and orders the group files. The user's file and the command line are laid over them in
that order, and the whole tree is checked against the dataclasses in one go, so that a typo is found
wherever it was written and mapping entries (``data.sources.law.prefix=...``) need no ``+``.
Workers read ``RUN_DIR/run.yaml`` and need OmegaConf alone.
"""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megacpt.config.alternatives import given_way
from megacpt.config.hub_model import HubModel, named
from megacpt.config.paths import configs_root, with_contracted_paths, with_expanded_paths
from megacpt.config.schema import (
    flatten,
    hint,
    is_optional,
    leaf_of,
    spelled,
    to_run_config,
    to_tree,
    type_at,
)
from megacpt.config.sections import RunConfig
from megacpt.config.yaml_file import load_texts, nested, one_line
from megacpt.errors import ConfigError
from megacpt.files import write_text
from megacpt.text import one_of

MAY_CHANGE = (
    *("run_dir", "monitor.", "cluster.", "checkpoint.", "parallel.", "kernels."),
    *("data.stages", "data.global_batch_size", "data.micro_batch_size", "data.prefetch_steps"),
    *("data.require", "data.on_missing"),
    *("schedule.", "optim.base_lr_peak"),
)
"""Keys of run.yaml that a resumed run may set again: what they change begins with the next step.
That no stage is edited whose steps were done, and that these keep their learning rate, is checked
against the checkpoint."""
SCHEME = "settings"
"""Of the places in which Hydra finds a user's group files."""


@dataclass(slots=True, kw_only=True)
class _Assignment:
    key: str
    value: Any
    deletes: bool = False


@dataclass(slots=True, kw_only=True)
class _Request:
    """What the user wrote, sorted: group options for Hydra, then values in order of precedence."""

    options: dict[str, str] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)
    assignments: list[_Assignment] = field(default_factory=list)


def compose(
    overrides: Sequence[str], *, config_file: Path | None = None, config_dir: Path | None = None
) -> RunConfig:
    """The run's configuration; ``config_dir`` holds group files beside the packaged ones."""
    folders = [configs_root(), *([_existing_folder(config_dir)] if config_dir else [])]
    groups = group_options(folders)
    request = _Request()
    if config_file is not None:
        _read_user_file(config_file, groups=groups, request=request)
    for text in overrides:
        _read_override(text, groups=groups, request=request)
    base, chosen = _compose_groups(request.options, folders=folders)
    tree = _lay_over(base, request=request)
    config = to_run_config(
        tree,
        where=lambda path: _origin(path, request=request, config_file=config_file, chosen=chosen),
    )
    return with_expanded_paths(config)


def group_options(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Group name -> its options: the YAML files of each folder directly below the roots."""
    groups: dict[str, list[str]] = {}
    for folder in folders:
        for group in sorted(p for p in folder.iterdir() if p.is_dir()):
            options = sorted(f.stem for f in group.glob("*.yaml"))
            groups.setdefault(group.name, []).extend(options)
    return {name: options for name, options in groups.items() if options}


def write_run_yaml(config: RunConfig, *, path: Path, notes: Sequence[str] = ()) -> None:
    """Write ``run.yaml`` aside and rename; one of another run is never replaced.

    ``notes``: lines that become comments at its end.
    """
    require_same_run(config, path=path)
    stored = HubModel.stored(config.model.path or "")
    if stored is not None:
        notes = [f"model.path is {stored} of the Hugging Face hub.", *notes]
    comments = "".join(f"# {note}\n" for note in notes)
    write_text(path, text=render(with_contracted_paths(config)) + comments)


def require_same_run(config: RunConfig, *, path: Path) -> None:
    """ConfigError where ``run.yaml`` is of a run that cannot go on with these settings."""
    if path.exists():
        _refuse_other_run(read_run_yaml(path), new=config, path=path)


def read_run_yaml(path: Path) -> RunConfig:
    """The configuration of a run; its ``run_dir`` is the folder it is read from, moved or not."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} is not a run folder: it has no {path.name}; "
            "give a folder that megacpt train has written."
        )
    with _resolving():
        tree = _plain_tree(OmegaConf.create(load_texts(path)))
    config = to_run_config(tree, where=lambda _: str(path))
    return with_expanded_paths(replace(config, run_dir=str(path.parent)))


def render(config: RunConfig) -> str:
    """The configuration as YAML, as ``megacpt config`` prints it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _refuse_other_run(old: RunConfig, *, new: RunConfig, path: Path) -> None:
    before, after = _comparable(old), _comparable(new)
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_change(key, old=old)
    ]
    if changed:
        lines = "\n".join(f"  {k}: was {before.get(k)}, now {after.get(k)}" for k in changed)
        raise ConfigError(
            f"{path} belongs to a run with other settings:\n{lines}\n"
            "Set them back to resume that run, or start a new one with another run_dir=FOLDER."
        )


def _comparable(config: RunConfig) -> dict[str, Any]:
    """Its settings; the same commit of a model is the same, whichever cache holds it."""
    model = replace(config.model, path=named(config.model.path))
    return flatten(to_tree(replace(config, model=model)))


def _may_change(key: str, *, old: RunConfig) -> bool:
    if key.startswith("data.sources."):
        name, _, field_name = key.removeprefix("data.sources.").partition(".")
        return name not in old.data.sources or field_name in ("max_epochs", "require")
    return key.startswith(MAY_CHANGE)


def _existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is not a folder.")
    return folder.absolute()


def _read_user_file(path: Path, *, groups: Mapping[str, list[str]], request: _Request) -> None:
    """A text at a group's place picks the group's option; everything else is values."""
    if not path.is_file():
        raise ConfigError(f"--config {path} does not exist; give a YAML file of settings.")
    texts = load_texts(path)
    for key in [k for k in texts if k in groups and not isinstance(texts[k], Mapping)]:
        request.options[key] = _option(key, value=texts.pop(key), groups=groups)
    request.tree = nested(texts, path=path)


def _read_override(text: str, *, groups: Mapping[str, list[str]], request: _Request) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    written, equals, rest = text.partition("=")
    key, deletes = written.strip().lstrip("+~").strip(), text.startswith("~")
    if not equals and not deletes:
        raise ConfigError(_no_equals_sign(text, groups=groups))
    if not all(key.split(".")) or "@" in key:
        raise ConfigError(f"{text!r} names no setting; write SECTION.KEY=VALUE, without signs.")
    try:
        override = OverridesParser.create().parse_override(f"key={rest}")
        value = _plain(override.value())
    except HydraException as error:
        raise ConfigError(
            f"{text!r} cannot be read: {one_line(error)}. Write key=value and quote a value with "
            "spaces, commas, brackets or ~, as in \"run_dir='my run'\"."
        ) from error
    # A text may hold commas, as in adapter.targets=q_proj,v_proj.
    is_list = override.value_type is ValueType.SIMPLE_CHOICE_SWEEP and leaf_of(type_at(key)) is str
    if override.is_sweep_override() and not is_list:
        raise ConfigError(f"{text!r} holds several values; a run has one value for each setting.")
    if is_list or isinstance(value, bool | int | float):
        # As it is written: a run may be named 1e3, and the schema knows where a number is wanted.
        value = rest.strip()
    if key in groups and not deletes and not isinstance(value, dict):
        request.options[key] = _option(key, value=value, groups=groups)
        request.assignments = [a for a in request.assignments if (a.key, a.value) != (key, None)]
        if request.options[key] == "none" and is_optional(get_type_hints(RunConfig).get(key)):
            # Not what a file sets of it either.
            request.assignments.append(_Assignment(key=key, value=None))
    else:
        request.assignments.append(_Assignment(key=key, value=value, deletes=deletes))


def _plain(value: Any) -> Any:
    """Hydra's quoted strings are objects; everything else is plain already."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {_word(_plain(k)): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _word(value: object) -> str:
    """``true``, ``false`` and ``null`` as they are written."""
    return str(value).lower() if isinstance(value, bool) else spelled(value)


def _no_equals_sign(text: str, *, groups: Mapping[str, list[str]]) -> str:
    holders = [name for name, options in groups.items() if text in options]
    if holders:
        return f"{text!r} is not key=value; did you mean {holders[0]}={text}?"
    sections = [field.name for field in fields(RunConfig)]
    return f"{text!r} is not key=value; {hint(text, siblings=sections)}"


def _option(group: str, *, value: object, groups: Mapping[str, list[str]]) -> str:
    name = _word(_plain(value))
    if name == "null" and "none" in groups[group]:
        return "none"
    if name in groups[group] or (group == "experiment" and name == "null"):
        return name
    if name in ("null", ""):
        raise ConfigError(
            f"{group}={name} is not an option of the group {group}: it has no value; leave it out, "
            f"or name an option: {one_of(groups[group])}."
        )
    close = difflib.get_close_matches(name, groups[group], n=1, cutoff=0.0)[0]
    elsewhere = [other for other, names in groups.items() if name in names]
    meant = f"{elsewhere[0]}={name}" if elsewhere else f"{group}={close}"
    if group == "model" and "/" in name:
        meant = f"model.path={name}"
    raise ConfigError(
        f"{group}={name} is not an option of the group {group}; did you mean {meant}? "
        f"Options: {', '.join(groups[group])}."
    )


@cache
def _register_groups() -> None:
    """Let Hydra read a user's group files like every file of settings; once a process."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult

    class GroupSource(FileConfigSource):
        @staticmethod
        def scheme() -> str:
            return SCHEME

        def load_config(self, config_path: str) -> ConfigResult:
            path = Path(self.path) / self._normalize_file_name(config_path)
            texts = load_texts(path)
            # Hydra's own list, which names groups; nothing in it is a setting.
            lists = {"defaults": texts.pop("defaults")} if "defaults" in texts else {}
            return ConfigResult(
                config=OmegaConf.create(lists | nested(texts, path=path)),
                path=f"{SCHEME}://{self.path}",
                provider=self.provider,
                header=self._get_header_dict(path.read_text("utf-8-sig")),
            )

    Plugins.instance().register(GroupSource)


def _compose_groups(
    options: Mapping[str, str], *, folders: Sequence[Path]
) -> tuple[dict[str, Any], list[Path]]:
    """The chosen group files merged in Hydra's order, and the files themselves."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    overrides = [f"{group}={o}" for group, o in options.items() if o != "null"]
    _register_groups()
    places = ", ".join(repr(f"{SCHEME}://{folder}") for folder in folders[1:])
    overrides += [f"hydra.searchpath=[{places}]"]
    try:
        with initialize_config_dir(config_dir=str(folders[0]), version_base="1.3"):
            config = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"The group files cannot be composed: {one_line(error)}") from error
    chosen = {k: v for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    del config["hydra"]
    base = typing.cast(dict[str, Any], OmegaConf.to_container(config))
    return base, [
        f / k / f"{v}.yaml"
        for f in folders
        for k, v in chosen.items()
        if (f / k / f"{v}.yaml").exists()
    ]


def _lay_over(base: Mapping[str, Any], *, request: _Request) -> dict[str, Any]:
    defaults = to_tree(RunConfig())
    # An option that sets nothing leaves its section as it is, one that is not set among them.
    base = {key: value for key, value in base.items() if value != {}}
    tree = copy.deepcopy(_overlaid(_overlaid(defaults, over=base), over=request.tree))
    typed: dict[str, Any] = {}
    for assignment in request.assignments:
        if assignment.deletes:
            _delete(tree, key=assignment.key)
        else:
            one = _tree_of(assignment.key, value=assignment.value)
            tree, typed = _overlaid(tree, over=one), _overlaid(typed, over=one)
    for key, value in given_way([typed, request.tree, base]).items():
        tree = _overlaid(tree, over=_tree_of(key, value=value))
    with _resolving():
        return _plain_tree(OmegaConf.create(tree))


def _tree_of(key: str, *, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` of ``a.b``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _overlaid(tree: Mapping[str, Any], *, over: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``over`` in the place of those of ``tree``; sections are laid over each other."""
    laid = dict(tree)
    for key, value in over.items():
        below = laid.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            laid[key] = _overlaid(below, over=value)
        else:
            laid[key] = value
    return laid


def _plain_tree(tree: DictConfig) -> dict[str, Any]:
    """Plain values, with ``${...}`` as what it names."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(tree, resolve=True))


@contextmanager
def _resolving() -> Iterator[None]:
    try:
        yield
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(
            f"A setting cannot be resolved: {one_line(error)}. ${{SECTION.KEY}} is the value of "
            "another setting, ${oc.env:NAME} that of a variable of the environment."
        ) from error


def _delete(tree: dict[str, Any], *, key: str) -> None:
    *sections, last = key.split(".")
    place: Any = tree
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        raise ConfigError(f"~{key} removes a setting that is not there; leave it out.")
    del place[last]


def _origin(
    path: str, *, request: _Request, config_file: Path | None, chosen: Sequence[Path]
) -> str:
    """The place where the value at ``path`` was written, latest writer first."""
    for assignment in request.assignments:
        if path == assignment.key or path.startswith(f"{assignment.key}."):
            return "command line"
    if config_file is not None and _holds(request.tree, path=path):
        return str(config_file)
    last = path.rsplit(".", 1)[-1]
    for file in reversed(chosen):
        if _holds_key(nested(load_texts(file), path=file), key=last):
            return str(file)
    return ""


def _holds(tree: Mapping[str, Any], *, path: str) -> bool:
    return any(
        leaf == path or leaf.startswith(f"{path}.") or path.startswith(f"{leaf}.")
        for leaf in flatten(tree)
    )


def _holds_key(tree: Mapping[Any, Any], *, key: str) -> bool:
    return key in tree or any(_holds_key(v, key=key) for v in tree.values() if isinstance(v, dict))
