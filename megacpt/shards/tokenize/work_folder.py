# SPDX-License-Identifier: Apache-2.0
"""PREFIX.pieces/: the plan of a tokenization, and the pieces that are finished.

    plan.json      settings, input files, what each piece is made of
    NAME.bin       tokens of the pieces one process made, as they go into the shard
    NAME.lens      int32 length of each of their documents
    NAME.mask      a byte of each token, is it learned, of pieces with some that are not
    NAME.bad       lines set aside, a JSON object each (policy quarantine)
    NNNNN.json     where piece NNNNN lies in these; a piece that has it is finished

So whatever ends a run, the next one of the same plan goes on from the finished pieces. Checksums
tell what a power cut left incomplete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacpt.corpus.curation import Curated
from megacpt.corpus.documents import OnError
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.pieces import Extent, Piece
from megacpt.errors import DataError
from megacpt.shards.tokenize.piece_log import KINDS, PieceRecord, full_disk_told

VERSION = 2
"""Of what texts are made of inputs: pieces of another one are made again."""
PLAN = "plan.json"
REFERENCE_REQUIRED = "fastokens-differs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """All that the bytes of the shard depend on, besides the inputs."""

    tokenizer_fingerprint: str
    vocab_size: int
    eos_id: int | None
    append_eos: bool
    special: bool
    key: str
    max_document_bytes: int
    dtype: str
    tokenizer_identity: str = ""
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecePlan:
    settings: ShardSettings
    files: tuple[SourceFile, ...]
    pieces: tuple[Piece, ...]
    curated: Curated = field(default_factory=Curated)

    @property
    def num_bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class WorkFolder:
    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        self.path = Path(f"{prefix}.pieces")

    def start(self, plan: PiecePlan, *, is_task: bool, notice: Callable[[str], None]) -> None:
        """Make the folder, or find that of an interrupted run of the same plan.

        Another plan is started over by a run that has the folder for itself, and refused by a task.
        """
        with full_disk_told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._publish_plan(plan)
        existing = self._read_plan_json()
        differing = _differing(existing, second=_as_json(plan))
        if differing and is_task:
            raise DataError(
                f"{self.path} belongs to a tokenization that differs in {', '.join(differing)}; "
                "give all tasks the same inputs and settings, or remove the folder to start over."
            )
        if differing:
            notice(f"{self.path} was of other inputs or settings ({', '.join(differing)}): redone.")
            with full_disk_told(self.path):
                self._clear()
                (self.path / PLAN).unlink()
                self._publish_plan(plan)
        elif not is_task:
            self._clear_unused(len(plan.pieces))

    def _publish_plan(self, plan: PiecePlan) -> None:
        """Link the plan to its name, which fails where another task was first."""
        aside = self.path / f"{PLAN}.{secrets.token_hex(4)}.partial"
        aside.write_text(json.dumps(_as_json(plan)) + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            os.link(aside, self.path / PLAN)
        aside.unlink()

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path.name != PLAN and not path.name.startswith("pipe-"):
                path.unlink()

    def _clear_unused(self, num_pieces: int) -> None:
        """What no finished piece needs. (Tasks do not: others may be writing just now.)"""
        records = [self.record(number) for number in range(num_pieces)]
        used = {record.log for record in records if record is not None}
        for path in self.path.iterdir():
            is_log = path.suffix[1:] in KINDS and path.stem not in used
            if is_log or path.suffix == ".partial":
                path.unlink()

    def plan(self) -> PiecePlan:
        content = self._read_plan_json()
        try:
            return PiecePlan(
                settings=ShardSettings(**content["settings"]),
                files=tuple(
                    SourceFile(**file | {"format": FileFormat(file["format"])})
                    for file in content["files"]
                ),
                pieces=tuple(
                    tuple(
                        Extent(file=file, start=start, stop=stop, bytes=size)
                        for file, start, stop, size in piece
                    )
                    for piece in content["pieces"]
                ),
                curated=Curated.of_json(content["curated"]) if "curated" in content else Curated(),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken_plan(error) from error

    def _read_plan_json(self) -> dict[str, Any]:
        path = self.path / PLAN
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        except FileNotFoundError as error:
            raise DataError(
                f"{path} does not exist: nothing was tokenized to {self.prefix}, or it is merged "
                "already; give the output prefix that the tasks were given."
            ) from error
        except (OSError, ValueError) as error:
            raise self._broken_plan(error) from error

    def _broken_plan(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path / PLAN} cannot be read ({type(error).__name__}: {error}); remove the "
            "folder and tokenize again."
        )

    def stem(self, number: int) -> Path:
        return self.path / f"{number:05}"

    def record(self, number: int, *, on_error: OnError | None = None) -> PieceRecord | None:
        """Record of a finished piece that may be used: not made by fastokens where that is known to
        differ, and with its bad lines treated as ``on_error`` says."""
        try:
            content = json.loads(Path(f"{self.stem(number)}.json").read_text(encoding="utf-8"))
            found = PieceRecord(**content)
        except (OSError, ValueError, TypeError):
            return None
        if found.backend.startswith("fastokens") and self.reference_required:
            return None
        if not self._is_there(found):
            return None
        if found.errors and on_error is not None and found.on_error != on_error.value:
            return None
        return found

    def _is_there(self, record: PieceRecord) -> bool:
        paths = {
            kind: self.log_file(record, kind=kind) for kind, stop in record.stops.items() if stop
        }
        return all(p.is_file() and p.stat().st_size >= record.stops[k] for k, p in paths.items())

    def log_file(self, record: PieceRecord, *, kind: str) -> Path:
        return self.path / f"{record.log}.{kind}"

    @property
    def reference_required(self) -> bool:
        return (self.path / REFERENCE_REQUIRED).exists()

    def require_reference(self, text: str) -> None:
        """Fastokens differs on ``text``: its pieces, on all machines, count no more."""
        with full_disk_told(self.path):
            content = json.dumps({"text": text}, indent=2) + "\n"
            (self.path / REFERENCE_REQUIRED).write_text(content, encoding="utf-8")

    def forget(self, number: int) -> None:
        """Count a piece as not finished."""
        Path(f"{self.stem(number)}.json").unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _as_json(plan: PiecePlan) -> dict[str, Any]:
    return {
        "settings": asdict(plan.settings),
        "files": [asdict(file) | {"format": file.format.value} for file in plan.files],
        "pieces": [[[p.file, p.start, p.stop, p.bytes] for p in piece] for piece in plan.pieces],
        "curated": plan.curated.to_json(),
    }


def _differing(first: dict[str, Any], *, second: dict[str, Any]) -> list[str]:
    """Names of settings, or "inputs"."""
    one, other = first.get("settings", {}), second["settings"]
    names = [name for name in {**other, **one} if one.get(name) != other.get(name)]
    same_inputs = all(first.get(name) == second[name] for name in ("files", "pieces", "curated"))
    return names if same_inputs else [*names, "inputs"]
