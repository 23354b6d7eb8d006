# SPDX-License-Identifier: Apache-2.0
"""What text has been through, from raw files to a run, for a terminal of 80 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megacpt.config.compose import read_run_yaml
from megacpt.config.paths import RunFolder, source_shards
from megacpt.config.schema import flatten
from megacpt.corpus.checksum import sha256_of
from megacpt.corpus.curation import (
    CURATION,
    CuratedFile,
    Curation,
    TextOrigin,
    not_as_written,
    origin_of,
    origins_of,
)
from megacpt.errors import DataError
from megacpt.monitor.terminal import printable
from megacpt.shards.manifest import InputFile, Manifest, manifest_path, read_shard_manifest, verify
from megacpt.text import text_size

WIDTH, TITLE = 80, 17
DIGITS = 12
"""Of a checksum or fingerprint."""
FILES_SHOWN = 3
VALUE_CHARS = 48


def history_of(path: Path) -> str:
    """Of a run folder, the folder of a curation, or a shard's prefix."""
    if (path / "run.yaml").is_file():
        parts = _run(path)
    elif (path / CURATION).is_file():
        parts = _curation(path)
    else:
        parts = _shard(path)
    return "\n".join(parts) + "\n"


def verify_all(path: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every file that the history is of; DataError: one is not as it was written."""
    if (path / "run.yaml").is_file():
        prefixes = source_shards(read_run_yaml(RunFolder(path).run_yaml)).values()
        for prefix in prefixes:
            verify(prefix, progress=progress)
    elif (path / CURATION).is_file():
        for source in Curation.read(path).sources.values():
            for file in source.files:
                if not (path / file.path).is_file() or sha256_of(path / file.path) != file.sha256:
                    raise not_as_written(path / file.path)
    else:
        verify(path, progress=progress)


def _curation(folder: Path) -> Iterator[str]:
    curation = Curation.read(folder)
    for name in curation.sources:
        yield from _chain(origin_of(name, curation=curation, folder=folder))
        source = curation.sources[name]
        size = text_size(source.bytes)
        yield from _row("Text", text=f"{source.documents:,} documents, {size} in {folder}/{name}")
        yield ""


def _shard(prefix: Path) -> Iterator[str]:
    manifest = read_shard_manifest(prefix)
    if manifest is None:
        raise DataError(
            f"{prefix} has no history: {manifest_path(prefix)} does not exist. Give the prefix of "
            "a shard that megacpt tokenize has written, a run folder, or a folder of megacpt "
            "curate."
        )
    yield from _chains(manifest.curated, unknown=manifest)
    yield from _tokens(manifest, prefix=prefix)


def _run(folder: Path) -> Iterator[str]:
    """By the record that the run itself keeps; what is in the shards now is compared with it."""
    config = read_run_yaml(RunFolder(folder).run_yaml)
    plan = _plan(folder)
    for name, prefix in source_shards(config).items():
        yield f"Source {name}"
        manifest = read_shard_manifest(prefix)
        kept = origins_of(plan.get("curated", {}).get(name, ()))
        now = manifest.curated if manifest else ()
        is_same = [o.fingerprint for o in kept] == [o.fingerprint for o in now]
        yield from _chains(now if is_same else kept, unknown=manifest)
        if manifest is None:
            yield from _row("Shard", text=f"no manifest: {manifest_path(prefix)} is not there")
        else:
            yield from _tokens(manifest, prefix=Path(prefix))
            if not is_same:
                yield from _row("", text="It names another curation now than when the run began.")
        yield ""
    steps = f"{plan['steps']:,} steps" if plan else "not started"
    yield from _row("Run", text=f"{folder}: {steps} of {Path(str(config.model.path)).name}")


def _plan(folder: Path) -> Mapping[str, Any]:
    path = RunFolder(folder).plan_json
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        remedy = "start the run again, which writes it"
        raise DataError(f"{path} is no JSON ({error}); {remedy}.") from error


def _chains(origins: Sequence[TextOrigin], *, unknown: Manifest | None) -> Iterator[str]:
    for origin in origins:
        yield from _chain(origin)
    if not origins:
        yield from _files("Raw text", files=unknown.inputs if unknown else ())
        yield from _row("Curation", text="no record: none, or by another tool")


def _chain(origin: TextOrigin) -> Iterator[str]:
    """The raw files, each step, and the curation's account."""
    yield from _files("Raw text", files=origin.inputs)
    for number, step in enumerate(origin.steps, start=1):
        counts = step.counts
        left = f"{counts['documents_in']:,} documents, {text_size(counts['bytes_in'])}"
        left += f" -> {counts['documents_out']:,}, {text_size(counts['bytes_out'])}"
        yield from _row(f"{number} {step.name}", text=left)
        if settings := ", ".join(_settings(step.settings)):
            yield from _row("", text=settings)
    if not origin.steps:
        yield from _row("Steps", text="none concerned it")
    yield from _row(
        "Curated",
        text=f"{origin.folder}, {origin.source} ({origin.kind}), megacpt {origin.megacpt}, "
        f"fingerprint {origin.fingerprint[:DIGITS]}{_gone(origin)}",
    )


def _gone(origin: TextOrigin) -> str:
    """What is no longer in the folder as it was."""
    folder = Path(origin.folder)
    if not (folder / CURATION).is_file():
        return "; the folder is not there any more"
    if Curation.read(folder).fingerprint != origin.fingerprint:
        return "; the folder holds another curation now"
    return ""


def _tokens(manifest: Manifest, *, prefix: Path) -> Iterator[str]:
    tokens = f"{manifest.documents:,} documents, {manifest.tokens:,} tokens"
    yield from _row("Shard", text=f"{prefix}: {tokens}, .bin sha256 {manifest.bin_sha256[:DIGITS]}")


def _files(title: str, *, files: Sequence[CuratedFile | InputFile]) -> Iterator[str]:
    for n, file in enumerate(files[:FILES_SHOWN]):
        about = f"{file.path}, {text_size(file.bytes)}, sha256 {file.sha256[:DIGITS]}"
        yield from _row("" if n else title, text=about)
    if len(files) > FILES_SHOWN:
        size = text_size(sum(file.bytes for file in files))
        yield from _row("", text=f"... {len(files):,} files in all, {size}")


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in flatten(settings).items():
        if value is not None:
            shown = _value(value)
            yield f"{key}={shown if len(shown) <= VALUE_CHARS else f'{shown[:VALUE_CHARS]}...'}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        names = (v.get("name", "...") if isinstance(v, Mapping) else v for v in value)
        return "/".join(map(str, names))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(title: str, *, text: str) -> Iterator[str]:
    indent = " " * TITLE
    yield from textwrap.wrap(
        printable(text),
        width=WIDTH,
        initial_indent=f"{title:<{TITLE}}",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
