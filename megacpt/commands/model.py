# SPDX-License-Identifier: Apache-2.0
"""The model a verb works on: a folder as it is, and what the Hugging Face hub has made a folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import shown
from megacpt.config.hub_model import HubModel
from megacpt.errors import ModelError
from megacpt.text import duration, text_size

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig
    from megacpt.device.runtime import Runtime

TERMINAL_S, FILE_S = 0.2, 15.0
"""How often progress is shown: redrawn on a terminal, else one line more."""


def with_model(config: RunConfig, *, online: bool = True) -> RunConfig:
    """``model.path`` as a folder that has all but the weights; a rank is not ``online``.

    A run keeps the commit that its run.yaml names, wherever the branch is by now.
    """
    path = str(config.model.path or "")
    asked = HubModel.asked(path)
    if asked is None and HubModel.stored(path) is None:
        _refuse_checkpoint(path, setting="model.path=")
        _say_folder_wins("model.path=", path=path)
        return config
    folder = _folder(
        asked,
        pinned=Path(path) if asked is None else _pinned(asked, run_dir=Path(config.run_dir)),
        called=f"model.path={path}" + _no_folder(asked),
        pretrained=config.model.init.name == "pretrained",
        online=online,
    )
    return replace(config, model=replace(config.model, path=str(folder)))


def with_weights(config: RunConfig) -> None:
    """Bring the weights that ``with_model`` has left out, if any."""
    folder = Path(str(config.model.path))
    if config.model.init.name != "random":
        _bring_weights(folder)


def _bring_weights(folder: Path) -> None:
    if HubModel.stored(str(folder)) is None:
        return
    from megacpt.hub.fetch import fetch_weights

    line = DownloadLine(str(HubModel.stored(str(folder))))
    try:
        fetch_weights(folder, note=_note, progress=line)
    finally:
        line.close()


def model_of_run(run_dir: Path, *, weights: bool) -> RunConfig:
    """A run's configuration; what the hub's cache has lost of its model is fetched again."""
    from megacpt.config.compose import read_run_yaml, write_run_yaml
    from megacpt.device.variables import notes

    recorded = read_run_yaml(run_dir / "run.yaml")
    if HubModel.stored(str(recorded.model.path)) is None:
        return recorded
    config = with_model(recorded)
    if weights:
        with_weights(config)
    if config != recorded:
        # The ranks read it.
        write_run_yaml(config, path=run_dir / "run.yaml", notes=notes(config))
    return config


@contextmanager
def one_rank(*, device: str = "cpu") -> Iterator[Runtime]:
    """This process as the only rank. megatron-core is imported inside alone, because the runtime's
    import hook has to prepare it. ``device``: a name of DeviceKind."""
    from megacpt.config.sections import ClusterConfig, DeviceKind
    from megacpt.device.environment import RankInfo
    from megacpt.device.quiet import quiet_libraries

    quiet_libraries()
    # It imports torch, and that the bars which are then shown for good.
    from megacpt.device import runtime

    started = runtime.start(RankInfo(), cluster=ClusterConfig(device=DeviceKind[device]))
    try:
        yield started
    finally:
        runtime.stop()


def tokenizer_path(name: str) -> Path:
    """What ``--tokenizer`` names, as a folder or file."""
    return _path(name, argument="--tokenizer ", pretrained=False)


def model_path(name: str, *, weights: bool, argument: str = "MODEL", bring: bool = True) -> Path:
    """What an argument of a verb names, as a folder; not ``bring``: its weights can wait."""
    _refuse_checkpoint(name, setting="")
    folder = _path(name, argument=f"{argument} ", pretrained=weights)
    if weights and bring and HubModel.stored(str(folder)) is not None:
        from megacpt.families import read_architecture

        read_architecture(folder)  # What can be refused is, before weights come.
        _bring_weights(folder)
    return folder


def bytes_to_come(folder: Path) -> int:
    """What of its weights the hub has and this machine has not."""
    if HubModel.stored(str(folder)) is None:
        return 0
    from megacpt.hub.fetch import missing_bytes

    return missing_bytes(folder)


def is_peft_folder(folder: Path) -> bool:
    from megacpt.families.peft_settings import PEFT_SETTINGS

    return (folder / PEFT_SETTINGS).is_file()


def as_asked(path: Path) -> str:
    """As a command takes it: the id of a model that the hub's cache holds, else the folder."""
    stored = HubModel.stored(str(path))
    return shown(path) if stored is None else str(stored)


def _path(name: str, *, argument: str, pretrained: bool) -> Path:
    asked = HubModel.asked(name)
    if asked is None or (Path(name).exists() and not asked.explicit):
        _say_folder_wins(argument, path=name)
        return Path(name)
    return _folder(
        asked,
        pinned=None,
        called=f"{argument}{asked}" + _no_folder(asked),
        pretrained=pretrained,
        online=True,
    )


def _folder(
    asked: HubModel | None, *, pinned: Path | None, called: str, pretrained: bool, online: bool
) -> Path:
    from megacpt.hub.fetch import fetch, holds_weights, is_whole

    if pinned is not None and is_whole(pinned):
        weights_can_wait = online or not pretrained
        if weights_can_wait or holds_weights(pinned):
            return pinned
    model = asked if pinned is None else HubModel.stored(str(pinned))
    assert model is not None
    return fetch(model, called=called, pretrained=pretrained, note=_note, online=online)


def _pinned(asked: HubModel, *, run_dir: Path) -> Path | None:
    """The folder of the commit that the run began with, where ``asked`` can mean it."""
    from megacpt.config.compose import read_run_yaml

    run_yaml = run_dir / "run.yaml"
    recorded = read_run_yaml(run_yaml).model.path if run_yaml.is_file() else None
    stored = HubModel.stored(recorded or "")
    if recorded is None or stored is None or not asked.may_be(stored):
        return None
    if asked.revision is not None and not str(stored.revision).startswith(asked.revision):
        _note(f"model.path={asked}: the run goes on with {stored}, as {run_yaml} says.")
    return Path(recorded)


def _no_folder(asked: HubModel | None) -> str:
    """The other reading of an id, for messages."""
    if asked is None or asked.explicit:
        return ""
    return f" (there is no folder {Path(str(asked)).absolute()}, so it is taken for a hub id)"


def _say_folder_wins(setting: str, *, path: str) -> None:
    folder = Path(path).absolute()
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    if folder.is_dir() and HubModel.asked(str(here)) is not None:
        _note(f"{setting}{here} is the folder {folder}; hf://{here} would be the hub's model.")


def _refuse_checkpoint(name: str, *, setting: str) -> None:
    """Weights that were trained here have a setting of their own, beside the model they are of."""
    from megacpt.checkpoint.manifest import MANIFEST
    from megacpt.config.paths import RunFolder

    path = Path(name)
    is_run, is_checkpoint = RunFolder(path).run_yaml.is_file(), (path / MANIFEST).is_file()
    if not name or (path / "config.json").is_file() or not (is_run or is_checkpoint):
        return
    ours = shown(path)
    loaded = f"use {_model_of(path, is_run=is_run)} checkpoint.load_from={ours}, or "
    raise ModelError(
        f"{setting}{name} is a {'run folder' if is_run else 'checkpoint'}, not a Hugging Face "
        f"folder; {loaded if setting else ''}write it as one: megacpt convert {ours} {ours}-hf"
    )


def _model_of(path: Path, *, is_run: bool) -> str:
    """The settings that name the model of a run or of a checkpoint."""
    from megacpt.config.compose import read_run_yaml
    from megacpt.config.paths import RunFolder
    from megacpt.convert.opened import description_of
    from megacpt.families.stored.files import has_weights

    if is_run:
        folder = Path(str(read_run_yaml(RunFolder(path).run_yaml).model.path))
    else:
        folder = description_of(path)
    has_none = folder.is_dir() and not has_weights(folder)
    return f"model.path={as_asked(folder)}" + " model.init=random" * has_none


def _note(text: str) -> None:
    print(text, file=sys.stderr)


class DownloadLine:
    """Shows how far a download is."""

    def __init__(self, what: str, *, every_s: float | None = None) -> None:
        self._what, self._is_terminal = what, sys.stderr.isatty()
        usual_s = TERMINAL_S if self._is_terminal else FILE_S
        self._every_s = usual_s if every_s is None else every_s
        self._started_at = self._shown_at = time.monotonic()
        self._before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._before is None:
            self._before = done
        if now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        rate = (done - self._before) / (now - self._started_at)
        left = f"  {duration((total - done) / rate)} left" if rate else ""
        share = f"{done / max(total, 1):6.1%} of {text_size(total)}"
        text = f"{self._what} {share}  {text_size(rate)}/s{left}"
        start, end = ("\r\x1b[K", "") if self._is_terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._is_terminal and self._shown_at > self._started_at:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
