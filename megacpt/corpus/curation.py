# SPDX-License-Identifier: Apache-2.0
"""FOLDER/curation.json: what was done to the raw text that lies in the folder, step by step.

It holds the account of all steps, those of earlier curations of the same text included, and the
checksums of the files they have led to, so that whoever reads these can tell what they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
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
class StepRecord:
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
    history: tuple[StepRecord, ...] = ()
    """Steps of earlier curations that its inputs had been through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation:
    megacpt: str
    """Version that wrote it."""
    sources: Mapping[str, CuratedSource]
    steps: tuple[StepRecord, ...]
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


def was_decontaminated(steps: Iterable[StepRecord], *, suite: str) -> bool:
    """Whether a step took the items of a suite, named or by its identity, out of the text."""
    return any(
        suite in (name, about["identity"])
        for step in steps
        if step.name == "decontaminate" and step.settings["action"] != "report"
        for name, about in step.findings["suites"].items()
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


def _step(content: Mapping[str, Any]) -> StepRecord:
    inputs = {name: _files(files) for name, files in content["inputs"].items()}
    return StepRecord(**{**content, "inputs": inputs})


def _files(content: Any) -> tuple[CuratedFile, ...]:
    return tuple(CuratedFile(**file) for file in content)
