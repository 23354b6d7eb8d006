# SPDX-License-Identifier: Apache-2.0
"""What a file is packed in: streams that are unpacked here, and what else it may turn out to be.

A file that is whole but of a kind that is not read here is not called damaged: what it is and how
to convert it is told by its ending, by its first bytes or by what its decoder misses.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from megacpt.errors import DataError, EnvironmentError_

KINDS = {".gz": "gzip", ".zst": "Zstandard", ".bz2": "bzip2", ".xz": "xz"}
"""Endings of streams that are unpacked here."""

CONVERTED_BY = {
    ".html .htm .xhtml": "trafilatura or 'pandoc -t plain' makes text of it",
    ".pdf": "pdftotext makes text of it",
    ".docx .odt .epub .rtf .tex .ipynb .org": "'pandoc -t plain' makes text of it",
    ".doc .ppt .pptx .xls .xlsx .ods": "'soffice --convert-to' makes txt or csv of it",
    ".xml": "'pandoc -t plain' (DocBook, JATS) or wikiextractor (MediaWiki) makes text of it",
    ".warc .wet .wat": "trafilatura or warcio takes the texts out of it",
    ".arrow .feather .orc": "pyarrow writes it as Parquet",
    ".avro": "fastavro reads it; write it as JSONL",
    ".db .sqlite .sqlite3": "'sqlite3 -csv -header' writes its tables as CSV",
    ".tar .tgz .tbz2 .txz": "'tar -xf' unpacks it",
    ".zip .7z .rar": "'7z x' unpacks it",
    ".lz4": "'lz4 -d' unpacks it",
    ".br": "'brotli -d' unpacks it",
    ".z": "'gzip -d' unpacks it",
}
"""Endings of what is not read here, and what to do with it."""

SIGNATURES = {
    b"\x1f\x8b\x08": ("gzip", "end its name with .gz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "end its name with .zst"),
    b"BZh91AY&SY": ("bzip2", "end its name with .bz2"),
    b"\xfd7zXZ\x00": ("xz", "end its name with .xz"),
    b"\x04\x22\x4d\x18": ("lz4", "'lz4 -d' unpacks it"),
    b"\x37\xa4\x30\xec": ("a Zstandard dictionary", "it is for the program zstd, and no text"),
    b"PK\x03\x04": ("a zip archive (or .docx, .epub, .xlsx)", "unpack or convert it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "'7z x' unpacks it"),
    b"Rar!\x1a\x07": ("a RAR archive", "'7z x' unpacks it"),
    b"PAR1\x15": ("Parquet", "end its name with .parquet, or give --format parquet"),
    b"ARROW1\x00\x00": ("Arrow IPC (Feather)", "pyarrow writes it as Parquet"),
    b"Obj\x01": ("Avro", "fastavro reads it; write it as JSONL"),
    b"%PDF-": ("PDF", "pdftotext makes text of it"),
    b"SQLite format 3\x00": ("an SQLite database", "'sqlite3 -csv -header' writes CSV"),
    b"\x89HDF\r\n": ("HDF5", "h5py reads it; write it as Parquet"),
}
"""First bytes that no text begins with, what they mean and what to do."""
HEAD_BYTES = 32


def arrow_for(what: str) -> Any:
    """The package pyarrow, without which ``what`` cannot be read."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise EnvironmentError_(
            f"{what} needs the package pyarrow: pip install 'megacpt[data]'"
        ) from error


def unpacked(source: BinaryIO, *, ending: str, stack: ExitStack) -> BinaryIO:
    """The content of a stream of a file whose name ends with ``ending``, of KINDS or none."""
    enter: Any = stack.enter_context
    match ending:
        case ".gz":
            source = enter(gzip.GzipFile(fileobj=source))
        case ".bz2":
            source = enter(bz2.BZ2File(source))
        case ".xz":
            source = enter(lzma.LZMAFile(source))  # noqa: SIM115
        case ".zst":
            arrow = arrow_for("Zstandard input")
            source = enter(arrow.CompressedInputStream(arrow.PythonFile(source, mode="r"), "zstd"))
    return source


@contextmanager
def told(path: str, *, ending: str) -> Iterator[None]:
    """Tell damage from what is whole and not supported, and both from what the system refuses."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or ending not in KINDS):
            raise DataError(f"{path} cannot be read: {error.strerror}; check it.") from error
        raise DataError(f"{path} {_unpacking_failed(path, ending=ending, error=error)}") from error


def _unpacking_failed(path: str, *, ending: str, error: Exception) -> str:
    piped = "unpack it into a pipe: zstd -dc {} {} | megacpt tokenize - ...".format
    # The words are those of the zstd library.
    if "too much memory" in str(error):
        return (
            "needs a window of over 128 MiB (zstd --long, --ultra), the most that is read here; "
            + piped("--long=31", path)
        )
    if "ictionary" in str(error):
        return "needs the dictionary it was compressed with; " + piped("-D DICTIONARY", path)
    # One of raw content, which has no number, leaves no trace in the file.
    dictionary = ", or unpack it with its dictionary, if it had one" * ("orruption" in str(error))
    return (
        f"is not a complete {KINDS[ending]} file ({error}); compress or copy it again{dictionary}."
    )


def require_kind(path: str, *, head: bytes, ending: str) -> None:
    """Refuse a file that is to be text, or a stream of KINDS, and begins as something else does."""
    for signature, (name, remedy) in SIGNATURES.items():
        if head.startswith(signature) and name != KINDS.get(ending):
            raise DataError(f"{path} holds {name}, whatever its name ends with; {remedy}.")


def endings(path: Path) -> tuple[str, str]:
    """What tells the kind of a file, and its packing, if any: ``.jsonl`` and ``.gz``."""
    ending = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), ending) if ending in KINDS else (ending, "")


def refusal_of(path: Path) -> str | None:
    """What to do with a file whose ending tells that it is of a kind that is not read here."""
    ending, packing = endings(path)
    if packing and ending == ".parquet":
        return "unpack it: Parquet is compressed within"
    found = (how for names, how in CONVERTED_BY.items() if ending in names.split())
    return next(found, None)
