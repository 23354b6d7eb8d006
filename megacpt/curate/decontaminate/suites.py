# SPDX-License-Identifier: Apache-2.0
"""Read the items of a benchmark from files, or from what lm-eval makes of its tasks."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megacpt.corpus.containers import arrow_for
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.inputs import find_files
from megacpt.corpus.pieces import Extent
from megacpt.corpus.reader import ExtentReader
from megacpt.curate.decontaminate.harness import task_items
from megacpt.curate.decontaminate.items import ItemSuite, SuiteItem, chosen, field, texts_of
from megacpt.curate.decontaminate.settings import SuiteConfig
from megacpt.errors import DataError
from megacpt.text import listed

ITEM_BYTES_MAX = 1 << 28
"""A whole file of BIG-bench is one JSON object."""


def read_suite(
    name: str, *, settings: SuiteConfig, notice: Callable[[str], None] = lambda text: None
) -> ItemSuite:
    """``DataError``: there are no items, or one has no question."""
    path = Path(settings.path)
    is_task = not (path.exists() or glob.has_magic(settings.path) or "," in settings.path)
    if is_task or path.suffix in (".yaml", ".yml"):
        items = tuple(task_items(settings.path, suite=name))
    else:
        names = [name.strip() for name in settings.path.split(",")]
        files = find_files(names, file_format=None, spool=path, notice=notice)
        items = tuple(item for file in files for item in _items(file, settings=settings))
    if not items:
        raise DataError(f"suite {name}: {settings.path} holds no items; name files with some.")
    return ItemSuite(name=name, source=settings.path, items=items)


def _items(file: SourceFile, *, settings: SuiteConfig) -> Iterator[SuiteItem]:
    if file.format is FileFormat.text:
        yield from (SuiteItem(question=(text,)) for text in _whole(file))
        return
    for number, fields in enumerate(_objects(file, settings=settings), start=1):
        where = f"{file.path}, item {number}"
        if isinstance(fields.get("examples"), list):
            yield from _big_bench(fields["examples"], where=where)
        else:
            yield _item(fields, settings=settings, where=where)


def _whole(file: SourceFile) -> Iterator[str]:
    for passage in _passages(file):
        yield from (value.decode("utf-8", "replace") for value in passage)


def _passages(file: SourceFile) -> Iterator[Sequence[Any]]:
    extent = Extent(file=0, start=0, stop=file.bytes, bytes=file.bytes)
    reader = ExtentReader(file, extent=extent, number=0, key="", max_bytes=ITEM_BYTES_MAX)
    for passage in reader:
        if passage.bad:
            raise DataError(f"{file.path}:{passage.bad[0].line}: {passage.bad[0].problem}.")
        content = passage.content
        yield content.split(b"\n") if isinstance(content, bytes) else content


def _objects(file: SourceFile, *, settings: SuiteConfig) -> Iterator[Mapping[str, Any]]:
    if file.format is FileFormat.parquet:
        yield from _rows(file.path, settings=settings)
        return
    if file.format not in (FileFormat.jsonl, FileFormat.json):
        raise DataError(
            f"{file.path}: items are not read from {file.format.value} files; make lines of JSON "
            "or Parquet of them."
        )
    lines = (line for passage in _passages(file) for line in passage)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _object(line, where=f"{file.path}:{number}")


def _object(line: bytes, *, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({error}); fix or remove it.") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: an item must be a JSON object; got {str(found)[:40]!r}.")
    return found


def _rows(path: str, *, settings: SuiteConfig) -> Iterator[Mapping[str, Any]]:
    arrow_for(path)
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    wanted = {name.split(".")[0] for name in (settings.question, settings.options, settings.answer)}
    columns = [name for name in file.schema_arrow.names if name in wanted]
    for batch in file.iter_batches(1024, columns=columns or None):
        yield from batch.to_pylist()


def _item(fields: Mapping[str, Any], *, settings: SuiteConfig, where: str) -> SuiteItem:
    question = texts_of(field(fields, name=settings.question))
    if not question:
        raise DataError(
            f"{where}: has no text under {settings.question!r}; its fields are: "
            f"{listed(sorted(fields)) or 'none'}. Name that of the question, as in "
            "decontaminate.suites.NAME.question=input."
        )
    options = texts_of(field(fields, name=settings.options))
    answer = field(fields, name=settings.answer)
    return SuiteItem(question=question, answer=chosen(answer, options=options), options=options)


def _big_bench(examples: Iterable[Any], *, where: str) -> Iterator[SuiteItem]:
    for number, example in enumerate(examples, start=1):
        if not isinstance(example, dict) or not texts_of(example.get("input")):
            raise DataError(f"{where}, example {number}: has no text under 'input'.")
        scores = example.get("target_scores") or {}
        best = max(scores.values(), default=0)
        right = [option for option, score in scores.items() if score == best]
        yield SuiteItem(
            question=texts_of(example["input"]),
            answer=texts_of(example.get("target", right)),
            options=tuple(scores),
        )
