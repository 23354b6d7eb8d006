# SPDX-License-Identifier: Apache-2.0
"""FOLDER/curation.json: what was done to the raw text that lies in the folder, step by step.

It holds the account of all steps, those of earlier curations of the same text included, and the
checksums of the files they have led to, so that whoever reads these can tell what they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from megacpt.errors import DataError
from megacpt.files import write_text

CURATION = "curation.json"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratedFile:
    path: str
    """Within the folder; of an input as it was named."""
    bytes: int
    sha256: str
    """As megacpt.corpus.checksum says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationStep:
    """A step that was done."""

    name: str
    settings: Mapping[str, Any]
    """All that the result depends on, versions included."""
    inputs: Mapping[str, tuple[CuratedFile, ...]] = field(default_factory=dict)
    """By source."""
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By source: documents and bytes before and after, and what each rule has done."""
    findings: Mapping[str, Any] = field(default_factory=dict)
    """What else the step has to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CuratedSource:
    kind: str
    files: tuple[CuratedFile, ...]
    documents: int
    bytes: int
    """UTF-8 bytes of the texts."""
    history: tuple[CurationStep, ...] = ()
    """Steps of earlier curations that its inputs had been through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedStep:
    """A step that a text has been through."""

    name: str
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    """Documents and bytes, before and after."""
    suites: Mapping[str, str] = field(default_factory=dict)
    """Benchmarks whose items were taken out of it: name -> identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOrigin:
    """A source of a curation that text was taken from."""

    source: str
    kind: str
    folder: str
    """As it was named."""
    fingerprint: str
    """Of the curation's account."""
    megacpt: str
    inputs: tuple[CuratedFile, ...]
    """What its first step has read."""
    steps: tuple[PassedStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation:
    megacpt: str
    """Version that wrote it."""
    sources: Mapping[str, CuratedSource]
    steps: tuple[CurationStep, ...]
    version: int = VERSION

    @property
    def fingerprint(self) -> str:
        """128 bits of all it says, in hexadecimal."""
        content = json.dumps(asdict(self), sort_keys=True)
        return xxhash.xxh3_128_hexdigest(content.encode())

    def write(self, folder: Path) -> Path:
        path = folder / CURATION
        content = {"fingerprint": self.fingerprint, **asdict(self)}
        write_text(path, text=json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, folder: Path) -> Curation:
        """``DataError``: it is damaged, edited or of another version."""
        path = folder / CURATION
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise DataError(
                    f"{path} has version {content['version']}, this megacpt reads {VERSION}; use "
                    "the megacpt that wrote it, or curate the text again."
                )
            stated = content.pop("fingerprint")
            found = _curation(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}: {error}); curate the text again."
            ) from error
        if stated != found.fingerprint:
            raise DataError(
                f"{path} was changed after it was written: it states {stated}, its content "
                f"gives {found.fingerprint}; restore it, or curate the text again."
            )
        return found

    def steps_of(self, source: str) -> tuple[CurationStep, ...]:
        """All that its text has been through, earlier curations first; each step with what it has
        read and counted of this text alone."""
        own = (
            replace(
                step,
                inputs={source: step.inputs.get(source, ())},
                counts={source: step.counts[source]},
            )
            for step in self.steps
            if source in step.counts
        )
        return (*self.sources[source].history, *own)

    def file(self, name: str) -> tuple[str, CuratedFile] | None:
        """A file by its path in the folder, and the source it is of."""
        for source, held in self.sources.items():
            for file in held.files:
                if file.path == name:
                    return source, file
        return None


def curated_folder(file: Path) -> Path | None:
    """The folder of a curation that a file may be of."""
    found = (folder for folder in file.absolute().parents[:2] if (folder / CURATION).is_file())
    return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What curations say of files that are read."""

    origins: tuple[TextOrigin, ...] = ()
    """Of all files together; empty where one of them is of no curation."""
    sums: Mapping[str, str] = field(default_factory=dict)
    """Path -> checksum, of those that are of one."""

    def require(self, path: str, *, sha256: str) -> None:
        """DataError: a file is not as it was written."""
        if self.sums.get(path, sha256) != sha256:
            raise not_as_written(Path(path))

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Curated:
        return cls(origins=origins_of(content["origins"]), sums=dict(content["sums"]))


def curated(files: Sequence[str], *, notice: Callable[[str], None] = lambda text: None) -> Curated:
    """DataError: a file has another size than its curation says, which is the cheap part of it."""
    curations: dict[Path, Curation] = {}
    origins: dict[tuple[Path, str], TextOrigin] = {}
    sums: dict[str, str] = {}
    for path in map(Path, files):
        folder = curated_folder(path)
        if folder is None:
            continue
        if folder not in curations:
            curations[folder] = Curation.read(folder)
        curation = curations[folder]
        held = curation.file(str(path.absolute().relative_to(folder)))
        if held is None or path.stat().st_size != held[1].bytes:
            raise not_as_written(path)
        source, file = held
        sums[str(path)] = file.sha256
        if (folder, source) not in origins:
            origins[folder, source] = origin_of(source, curation=curation, folder=folder)
    if sums and len(sums) < len(set(files)):
        bare = next(path for path in files if path not in sums)
        notice(f"{bare} comes from no curation, others do: what was done there is not kept.")
        origins = {}
    return Curated(origins=tuple(origins.values()), sums=sums)


def not_as_written(path: Path) -> DataError:
    return DataError(
        f"{path} is not as {curated_folder(path)}/{CURATION} says; restore it, or move it out of "
        "that folder."
    )


def origin_of(source: str, *, curation: Curation, folder: Path) -> TextOrigin:
    steps = curation.steps_of(source)
    return TextOrigin(
        source=source,
        kind=curation.sources[source].kind,
        folder=str(folder),
        fingerprint=curation.fingerprint,
        megacpt=curation.megacpt,
        inputs=tuple(file for step in steps[:1] for held in step.inputs.values() for file in held),
        steps=tuple(_passed(step) for step in steps),
    )


def _passed(step: CurationStep) -> PassedStep:
    (counts,) = step.counts.values()
    numbers = {name: number for name, number in counts.items() if isinstance(number, int)}
    # Text of which hits were only reported still has them.
    is_clean = step.settings.get("action") != "report"
    suites = step.findings.get("suites", {}) if is_clean else {}
    return PassedStep(
        name=step.name,
        settings=step.settings,
        counts=numbers,
        suites={name: str(about["identity"]) for name, about in suites.items()},
    )


def origins_of(content: Sequence[Mapping[str, Any]]) -> tuple[TextOrigin, ...]:
    """From JSON."""
    return tuple(
        TextOrigin(
            **{
                **origin,
                "inputs": _files(origin["inputs"]),
                "steps": tuple(PassedStep(**step) for step in origin["steps"]),
            }
        )
        for origin in content
    )


def _curation(content: Mapping[str, Any]) -> Curation:
    sources = {
        name: CuratedSource(
            **{
                **source,
                "files": _files(source["files"]),
                "history": tuple(map(_step, source["history"])),
            }
        )
        for name, source in content["sources"].items()
    }
    return Curation(
        megacpt=content["megacpt"],
        sources=sources,
        steps=tuple(map(_step, content["steps"])),
        version=content["version"],
    )


def _step(content: Mapping[str, Any]) -> CurationStep:
    inputs = {name: _files(files) for name, files in content["inputs"].items()}
    return CurationStep(**{**content, "inputs": inputs})


def _files(content: Any) -> tuple[CuratedFile, ...]:
    return tuple(CuratedFile(**file) for file in content)
