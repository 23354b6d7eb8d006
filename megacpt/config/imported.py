# SPDX-License-Identifier: Apache-2.0
"""The configuration of another trainer as settings of a run, each of its keys accounted for.

Axolotl and transformers (YAML or JSON), Megatron-LM (YAML, a script or a file of arguments). What
a key is here stands in foreign.py; here is what needs more than one key, and what the other trainer
does where its file says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from megacpt.config.argument_file import options_of
from megacpt.config.foreign import NoCounterpart, counterpart_of, plain_name
from megacpt.config.limits import beyond_limits
from megacpt.config.schema import flatten, spelled, to_run_config, to_tree
from megacpt.config.sections import RunConfig
from megacpt.config.yaml_file import load_texts, nested
from megacpt.errors import ConfigError
from megacpt.text import listed

UNKNOWN_VARIABLE = "it is a variable that the file does not set"
RAW_TEXT = ("completion", "pretrain")
"""Axolotl's kinds of plain text."""
MEGATRON = frozenset(
    {"train_iters", "train_samples", "lr_decay_style", "tensor_model_parallel_size"}
)
"""Names by which a file is known as one of Megatron-LM."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "Megatron-LM": {
        "lr_decay_style": "linear",
        "min_lr": 0.0,
        "lr_warmup_iters": 0,
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
    },
    "Axolotl": {
        "lr_scheduler": "cosine",
        "cosine_min_lr_ratio": 0.0,
        "warmup_ratio": 0.03,
        "num_epochs": 1,
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
    },
    "transformers": {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "min_lr_rate": 0.0,
        "warmup_steps": 0,
        "num_train_epochs": 3,
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "per_device_train_batch_size": 8,
    },
}
"""What a trainer does where its file says nothing and ours would do something else."""
ALTERNATIVES = (
    ("schedule.steps", "schedule.tokens", "schedule.epochs"),
    ("schedule.warmup_steps", "schedule.warmup_fraction"),
    ("schedule.lr_final_fraction",),
)
"""The first that is set goes first, as it does in the other trainers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of one key of the other file."""

    name: str
    value: Any
    key: str = ""
    """The setting; empty: left out."""
    here: Any = None
    note: str = ""
    is_default: bool = False
    """The other trainer's own value, which its file does not set."""

    def __str__(self) -> str:
        theirs = f"{self.name} = {_short(self.value)}"
        why = f": {self.note}" * bool(self.note)
        if not self.key:
            return f"left out  {theirs}{why}"
        kind = "default" if self.is_default else "taken" if self.is_same else "changed"
        here = "" if kind == "taken" else f" = {_short(self.here)}"
        return f"{kind:<9} {theirs} -> {self.key}{here}{why}"

    @property
    def is_same(self) -> bool:
        return str(self.value).lower() == str(self.here).lower()


@dataclass(slots=True, kw_only=True)
class Imported:
    trainer: str
    keys: list[Taken] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value; of two with one key, the last."""
        return {taken.key: taken.here for taken in self.keys if taken.key}

    def leave_out(self, keys: Mapping[str, str]) -> None:
        """Drop settings, each for its reason."""
        for key, note in keys.items():
            self.drop([taken for taken in self.keys if taken.key == key], note=note)

    def drop(self, dropped: Sequence[Taken], *, note: str) -> None:
        self.keys = [
            replace(taken, key="", note=note) if any(taken is d for d in dropped) else taken
            for taken in self.keys
        ]

    def add(self, key: str, *, value: Any, note: str = "") -> None:
        """A setting that follows from the others."""
        name = key.rpartition(".")[2]
        self.keys.append(
            Taken(name=name, value=value, key=key, here=value, note=note, is_default=True)
        )

    def experiment(self) -> str:
        """YAML for ``--config``, or for the group ``experiment`` of a folder of one's own."""
        config = flatten(to_tree(_composed(self.settings)))
        tree: dict[str, Any] = {}
        for key in self.settings:
            *sections, last = key.split(".")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            # A path stays as it was written.
            place[last] = config[key] if not isinstance(config[key], str) else self.settings[key]
        return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def import_config(path: Path) -> Imported:
    """Every key of the file; ConfigError where it is no configuration that is known."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give a YAML, JSON or shell file of a trainer.")
    pairs = list(_read(path))
    given = {plain_name(name): value for name, value in pairs if _says(value)}
    known = [name for name in given if counterpart_of(name) is not None]
    if not known:
        raise ConfigError(
            f"{path} holds no key of Axolotl, transformers or Megatron-LM that is known here; "
            "give the file that the trainer itself is started with."
        )
    imported = Imported(trainer=_trainer(given, path=path))
    imported.keys = [
        taken for name, value in pairs for taken in _taken(name, value=value, given=given)
    ]
    _settle(imported)
    _add_defaults(imported, given=given)
    _leave_out_unused(imported)
    # Values that are none of their setting first, then those beyond its limits.
    for _ in range(2):
        imported.leave_out(_unusable(imported.settings))
    return imported


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        yield from _leaves(load_texts(path))
        return
    try:
        yield from options_of(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a text: {error}.") from error


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of all sections; one whose section has a counterpart as a whole is not looked into."""
    for name, value in tree.items():
        found = counterpart_of(name)
        if isinstance(value, Mapping) and (found is None or found.change is not None):
            yield from _leaves(value)
        else:
            yield name, value


def _says(value: object) -> bool:
    return value not in (None, "", [], {}, "null", "None")


def _trainer(given: Mapping[str, Any], *, path: Path) -> str:
    if not MEGATRON.isdisjoint(given) or path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return "Megatron-LM"
    return "Axolotl" if "base_model" in given else "transformers"


def _taken(name: str, *, value: Any, given: Mapping[str, Any]) -> Iterator[Taken]:
    found = counterpart_of(name)
    if found is None or not _says(value):
        yield Taken(name=name, value=value, note="not known here" if _says(value) else "empty")
    elif found.key == "data.sources.NAME.prefix":
        yield from _sources(name, value=value)
    elif not found.key or "NAME" in found.key:
        where = f"{found.key}, " * bool(found.key)
        yield Taken(name=name, value=value, note=f"{where}{found.note}")
    else:
        yield _converted(name, value=value[0] if isinstance(value, tuple) else value, given=given)


def _converted(name: str, *, value: Any, given: Mapping[str, Any]) -> Taken:
    found = counterpart_of(name)
    assert found is not None
    if "$" in str(value):
        return Taken(name=name, value=value, note=UNKNOWN_VARIABLE)
    if found.key == "schedule.warmup_steps" and str(value).startswith(("0.", ".")):
        return Taken(name=name, value=value, key="schedule.warmup_fraction", here=value)
    try:
        here = found.change(value, given=given) if found.change else value
    except NoCounterpart as why:
        return Taken(name=name, value=value, note=str(why))
    except KeyError as missing:
        return Taken(name=name, value=value, note=f"the file does not say {missing.args[0]}")
    return Taken(name=name, value=value, key=found.key, here=here, note=found.note)


def _sources(name: str, *, value: Any) -> Iterator[Taken]:
    """Megatron's shards with their weights, or Axolotl's data sets."""
    names: set[str] = set()
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        yield from (_data_set(name, item=item, names=names) for item in value)
        return
    weight = ""
    for word in value if isinstance(value, list | tuple) else str(value).split():
        if re.fullmatch(r"[0-9.]+(?:[eE][-+]?[0-9]+)?", str(word)):
            weight = str(word)
        elif "$" in str(word):
            yield Taken(name=name, value=word, note=UNKNOWN_VARIABLE)
        else:
            key = f"data.sources.{_entry_name(str(word), names=names)}"
            yield Taken(name=name, value=word, key=f"{key}.prefix", here=word)
            if weight:
                yield Taken(name=name, value=weight, key=f"{key}.weight", here=weight)
            weight = ""


def _data_set(name: str, *, item: Any, names: set[str]) -> Taken:
    described = item if isinstance(item, Mapping) else {"path": item}
    files = described.get("data_files")
    path = str(files[0] if isinstance(files, list) and files else files or described.get("path"))
    kind = str(described.get("type", "pretrain"))
    if kind not in RAW_TEXT:
        return Taken(name=name, value=path, note=f"type {kind} is no plain text")
    entry = _entry_name(path, names=names)
    return Taken(
        name=name,
        value=path,
        key=f"data.sources.{entry}.prefix",
        here=f"data/{entry}",
        note=f"write it: megacpt tokenize {path} --tokenizer MODEL --output data/{entry}",
    )


def _entry_name(path: str, *, names: set[str]) -> str:
    """A name for an entry from the last part of a path, unlike those there are."""
    stem = Path(path).name.split(".")[0].removesuffix("_text_document")
    base = name = re.sub("[^A-Za-z0-9_-]+", "_", stem).strip("_") or "text"
    while name in names:
        name = f"{base}_{len(names)}"
    names.add(name)
    return name


def _settle(imported: Imported) -> None:
    """One value for each setting, and one length and one warmup for the run."""
    for key in imported.settings:
        rivals = [taken for taken in imported.keys if taken.key == key]
        # A batch or a rate that is said goes before one that is worked out.
        best = max(rivals, key=lambda taken: (taken.is_same, rivals.index(taken)))
        imported.drop([r for r in rivals if r is not best], note=f"{best.name} goes first")
    for alternatives in ALTERNATIVES:
        first, *others = [key for key in alternatives if key in imported.settings] or [""]
        imported.leave_out(dict.fromkeys(others, f"{first} goes first"))


def _add_defaults(imported: Imported, *, given: Mapping[str, Any]) -> None:
    """What the other trainer does unasked, where ours would do something else."""
    said = {found.key for name in given if (found := counterpart_of(name)) is not None}
    for name, value in DEFAULTS[imported.trainer].items():
        taken = _converted(name, value=value, given=given)
        rivals = next((set(a) for a in ALTERNATIVES if taken.key in a), {taken.key})
        if taken.key and taken.key not in said and rivals.isdisjoint(imported.settings):
            imported.keys.append(replace(taken, is_default=True))
    settings = imported.settings
    ranks = _data_parallel_ranks(settings)
    if ranks is not None and "parallel.dp" not in settings:
        imported.add("parallel.dp", value=ranks, note="the ranks that tp, pp and cp leave")
    if ranks is not None:
        imported.keys = [_over_all(taken, ranks=ranks) for taken in imported.keys]
    if "data.micro_batch_size" in settings and "data.global_batch_size" not in settings:
        micro = int(settings["data.micro_batch_size"]) * (ranks or 1)
        imported.add("data.global_batch_size", value=micro, note="no accumulation")
    if "precision.fp8_format" in settings and "precision.recipe" not in settings:
        imported.add("precision.recipe", value="delayed")


def _over_all(taken: Taken, *, ranks: int) -> Taken:
    """Accumulation is said for one rank; the batch is that of all."""
    found = counterpart_of(taken.name)
    is_of_one = taken.key == "data.global_batch_size" and found is not None and found.change
    return replace(taken, here=taken.here * ranks) if is_of_one else taken


def _data_parallel_ranks(settings: Mapping[str, Any]) -> int | None:
    sizes = [str(settings.get(key)) for key in ("cluster.nodes", "cluster.gpus_per_node")]
    cuts = [str(settings.get(f"parallel.{cut}", 1)) for cut in ("tp", "pp", "cp")]
    if not all(size.isdigit() for size in (*sizes, *cuts)):
        return None
    ranks, rest = divmod(math.prod(map(int, sizes)), math.prod(map(int, cuts)))
    return ranks if ranks and not rest else None


def _leave_out_unused(imported: Imported) -> None:
    """Settings that would be refused beside the others."""
    settings = imported.settings
    shape = settings.get("schedule.shape")
    if shape == "wsd" and "schedule.decay_steps" not in settings:
        imported.leave_out({"schedule.shape": "the file does not say how many steps the decay has"})
    if shape != "wsd":
        imported.leave_out({"schedule.decay_steps": "only schedule.shape=wsd has it"})
    if shape in ("constant", "inverse_sqrt"):
        imported.leave_out({"schedule.lr_final_fraction": "the rate does not fall to it"})
    if str(settings.get("parallel.tp", 1)) == "1":
        imported.leave_out({"parallel.sequence_parallel": "parallel.tp is 1"})
    if settings.get("parallel.recompute") != "full":
        imported.leave_out({"parallel.recompute_layers": "parallel.recompute is not full"})


def _unusable(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings whose values are none here, each with the reason."""
    try:
        broken = list(beyond_limits(_composed(settings)))
    except ConfigError as error:
        if not error.violations:
            raise
        broken = list(error.violations)
    return {v.path: f"{v.path}={v.value} {v.rule.split(' (')[0]}" for v in broken}


def _composed(settings: Mapping[str, Any]) -> RunConfig:
    """Checked as a file of settings is."""
    texts = {key: str(value) for key, value in settings.items()}
    return to_run_config(nested(texts, path=Path("it")))


def _short(value: Any, *, width: int = 48) -> str:
    text = listed(value) if isinstance(value, list | tuple) and value else spelled(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."
