# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet files, and Zstandard streams: what pyarrow is needed for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from megacpt.errors import DataError, EnvironmentError_

BATCH_BYTES = 1 << 20
ROWS_MAX = 1 << 14
"""Most rows in memory at once, besides about BATCH_BYTES of text."""


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


def read_values(path: str, *, start: int, stop: int, key: str) -> Iterator[list[object]]:
    """The values of column ``key`` in row groups ``start .. stop-1``, some rows at a time.

    Text comes as bytes, which may be broken UTF-8.
    """
    arrow = _arrow(path)
    file = _open(path)
    columns = file.schema_arrow.names
    if key not in columns:
        raise DataError(
            f"{path}: has no column {key!r}; its columns are: {', '.join(columns) or 'none'}. "
            "Use --key NAME."
        )
    kind = file.schema_arrow.field(key).type
    rows = _rows_at_once(file.metadata, column=file.schema_arrow.names.index(key))
    is_text = arrow.types.is_string(kind) or arrow.types.is_large_string(kind)
    try:
        for batch in file.iter_batches(rows, row_groups=list(range(start, stop)), columns=[key]):
            column = batch.column(0)
            yield (column.cast(arrow.large_binary()) if is_text else column).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise _broken(path, error=error) from error


def _rows_at_once(metadata: Any, *, column: int) -> int:
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    # Nested columns have several leaves each, so this may be the weight of a neighbour: a guess.
    weight = sum(g.column(min(column, g.num_columns - 1)).total_uncompressed_size for g in groups)
    return max(1, min(ROWS_MAX, BATCH_BYTES * int(metadata.num_rows) // max(int(weight), 1)))


def open_zstd(source: BinaryIO) -> BinaryIO:
    """The decompressed stream; a cut or damaged one raises OSError."""
    arrow = _arrow("Zstandard input")
    stream: BinaryIO = arrow.CompressedInputStream(arrow.PythonFile(source, mode="r"), "zstd")
    return stream


def _open(path: str) -> Any:
    arrow = _arrow(path)
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=BATCH_BYTES)
    except FileNotFoundError:
        raise
    except (OSError, arrow.ArrowException) as error:
        raise _broken(path, error=error) from error


def _broken(path: str, *, error: Exception) -> DataError:
    return DataError(f"{path} is not a complete Parquet file ({error}); write or copy it again.")


def _arrow(what: str) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise EnvironmentError_(
            f"{what} needs the package pyarrow: pip install 'megacpt[data]'"
        ) from error
