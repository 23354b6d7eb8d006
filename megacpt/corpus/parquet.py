# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet files, some at a time, whatever Arrow type their text has.

A column is text if its values are: strings or bytes of any layout, also dictionary-encoded
(categories), run-end encoded or within an extension type (JSON). Lists of these are sentences of a
document. Anything else is refused with the name of its type, for no row of it could be a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from megacpt.corpus.containers import arrow_for
from megacpt.corpus.documents import ColumnValue
from megacpt.corpus.not_learned import require_no_spans
from megacpt.errors import DataError

BATCH_BYTES = 1 << 20
ROWS_MAX = 128
"""Most rows decoded at once: long ones may follow short ones. More take little less time a row."""
READ_BYTES = 1 << 20


def row_group_bytes(path: str) -> list[int]:
    """What each row group takes on the disk, as far as the file's metadata says."""
    metadata = _open(path).metadata
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    return [
        sum(group.column(n).total_compressed_size for n in range(group.num_columns))
        for group in groups
    ]


def num_rows(path: str, *, start: int, stop: int) -> int:
    """Rows of the row groups ``start .. stop-1``."""
    metadata = _open(path).metadata
    return sum(int(metadata.row_group(n).num_rows) for n in range(start, stop))


def read_values(
    path: str, *, start: int, stop: int, key: str | None
) -> Iterator[list[ColumnValue]]:
    """The values of column ``key`` in row groups ``start .. stop-1``, about BATCH_BYTES at a time;
    without a key, the rows as JSON objects.

    Text comes as bytes, which may be broken UTF-8, sentences as lists of it.
    """
    arrow = arrow_for(path)
    file = _open(path)
    for name in file.schema_arrow.names if key is None else [key]:
        _require_one(name, path=path, names=file.schema_arrow.names)
    require_no_spans(file.schema_arrow.names, path=path)
    if key is not None:
        _require_text(path, schema=file.schema_arrow, key=key)
    groups = range(start, stop)
    rows = _rows_at_once([file.metadata.row_group(n) for n in groups], key=key)
    kept: list[ColumnValue] = []
    kept_bytes = 0
    try:
        columns = None if key is None else [key]
        for batch in file.iter_batches(rows, row_groups=list(groups), columns=columns):
            # By its whole name: columns=["a.text"] also brings the field text of a struct a.
            for value in _objects(batch) if key is None else _values(batch.column(key)):
                kept.append(value)
                kept_bytes += _size(value)
                if kept_bytes >= BATCH_BYTES:
                    yield kept
                    kept, kept_bytes = [], 0
        if kept:
            yield kept
    except (OSError, arrow.ArrowException) as error:
        raise _unreadable(path, error=error) from error


def _require_text(path: str, *, schema: Any, key: str) -> None:
    names: Sequence[str] = schema.names
    if key not in names:
        raise DataError(
            f"{path}: has no column {key!r}; its columns are: {', '.join(names) or 'none'}. "
            "Use --key NAME."
        )
    if not _is_readable(schema.field(key).type):
        text = [name for n, name in enumerate(names) if _is_readable(schema.field(n).type)]
        raise DataError(
            f"{path}: column {key!r} is of type {schema.field(key).type}, which is no text; "
            f"columns of text are: {', '.join(text) or 'none'}. Use --key NAME, or write it again "
            "as strings."
        )


def _require_one(name: str, *, path: str, names: Sequence[str]) -> None:
    if (times := names.count(name)) > 1:
        raise DataError(
            f"{path}: has {times} columns named {name!r}, and nothing says which is meant; "
            "write it again with one of that name."
        )


def _is_readable(kind: Any) -> bool:
    return _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))


def _is_text(kind: Any) -> bool:
    """Whether the values are strings, or bytes that may be; all-null columns have rows that are
    bad one by one."""
    types = arrow_for("Parquet").types
    if hasattr(kind, "storage_type"):  # Bytes with a meaning of their own (a UUID) are no text.
        return _is_string(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    is_bytes = (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )
    return _is_string(kind) or is_bytes or types.is_null(kind)


def _is_string(kind: Any) -> bool:
    types = arrow_for("Parquet").types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    types = arrow_for("Parquet").types
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(types, test)(kind) for test in tests)


def _values(column: Any) -> list[ColumnValue]:
    """Bytes of each row, None where there is nothing; of a list of texts a list of bytes."""
    binary = arrow_for("Parquet").large_binary()
    if not _is_list(column.type):
        return list(column.cast(binary).to_pylist())
    return [row.values.cast(binary).to_pylist() if row.is_valid else None for row in column]


def _objects(batch: Any) -> Iterator[bytes]:
    """Each row as JSON; of one with broken UTF-8 in it, its texts, which no JSON is made of."""
    try:
        yield from [_line(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        if len(batch) > 1:
            for n in range(len(batch)):
                yield from _objects(batch.slice(n, 1))
            return
        texts = [column for column in batch.columns if _is_string(column.type)]
        binary = arrow_for("Parquet").large_binary()
        held = [column.cast(binary).to_pylist()[0] or b"" for column in texts]
        yield b'{"\xff": %s}' % b", ".join(held)


def _line(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, default=_as_json)
    except TypeError:  # A number of more than 64 bits.
        return json.dumps(row, default=_as_json).encode()


def _as_json(value: Any) -> str | None:
    """Dates and exact numbers as they are written; of bytes that are no text, such as pictures,
    nothing."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _size(value: ColumnValue) -> int:
    if isinstance(value, list):
        return sum(len(text or b"") for text in value) + 1
    return len(value or b"") + 1


def _rows_at_once(groups: Sequence[Any], *, key: str | None) -> int:
    """So many that they take about BATCH_BYTES, if all rows are about as long."""
    columns = [group.column(n) for group in groups for n in range(group.num_columns)]
    weight = sum(
        int(column.total_uncompressed_size)
        for column in columns
        if key is None or f"{column.path_in_schema}.".startswith(f"{key}.")
    )
    rows = sum(int(group.num_rows) for group in groups)
    return max(1, min(ROWS_MAX, BATCH_BYTES * rows // max(weight, 1)))


def _open(path: str) -> Any:
    arrow = arrow_for(path)
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
    except FileNotFoundError:
        raise
    except (OSError, arrow.ArrowException) as error:
        raise _unreadable(path, error=error) from error


def _unreadable(path: str, *, error: Exception) -> DataError:
    """Damage, unless the library says that it lacks what the file needs."""
    # "Not supported", "unsupported", "support for codec ... not built": most are plain OSErrors.
    lacking = arrow_for(path).ArrowNotImplementedError
    if isinstance(error, lacking) or "support" in str(error).lower():
        return DataError(
            f"{path} is Parquet with something that pyarrow cannot read here ({error}); write it "
            "again in a usual way: zstd or snappy, strings."
        )
    if "encrypt" in str(error).lower():
        return DataError(f"{path} is encrypted ({error}); write it again without.")
    return DataError(f"{path} is not a complete Parquet file ({error}); write or copy it again.")
