# SPDX-License-Identifier: Apache-2.0
"""PREFIX.json: where a token shard comes from, and how to tell that it is still the same.

Shards of other tools have none; they are used as they are. Unknown keys of a manifest are kept
out of the way, so that a newer megacpt may add some; another ``version`` is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import xxhash

from megacpt.corpus.curation import TextOrigin, origins_of
from megacpt.errors import DataError
from megacpt.shards.reader import IndexedShard
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.outdated import require_current

VERSION = 1
BYTES_AT_ONCE = 1 << 22
MANIFEST_BYTES_MAX = 1 << 28
"""That of a million input files is not larger."""
OWN_KEYS = ("tokenizer_fingerprint", "bin_sha256", "idx_sha256", "append_eos")
"""Keys that a JSON file of another tool does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file the documents came from, as it was read."""

    path: str
    bytes: int
    sha256: str
    """Checksum of a file over 8 MiB as megacpt.corpus.checksum says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRecord:
    """A library that encoded documents, and on how much of them it was compared."""

    name: str
    documents: int
    checked_documents: int = 0
    """Excerpts of so many documents gave the same ids with ``tokenizers``, all of them."""
    checked_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    name: str
    tokenizer_fingerprint: str
    vocab_size: int
    eos_id: int | None
    append_eos: bool
    key: str
    """Which field of a JSON line held the text."""
    documents: int
    empty_documents: int
    """Lines whose text was empty, or had no ids; they are left out of the shard."""
    tokens: int
    dtype: str
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str
    inputs: tuple[InputFile, ...]
    special: bool = True
    """Whether documents begin as the tokenizer's own rule says (BOS)."""
    long_documents: int = 0
    """Documents of more than 100,000 tokens; they are in the shard, whole."""
    on_error: str = "stop"
    errors: dict[str, int] = field(default_factory=dict)
    """Lines that were left out, by the kind of what is wrong with them."""
    backends: tuple[BackendRecord, ...] = ()
    tokenizer_identity: str = ""
    """``of_fingerprint`` what makes ids the same, however the tokenizer's file is written."""
    curated: tuple[TextOrigin, ...] = ()
    """Where all of its text was curated, and how; empty where that is not known."""
    mask_sha256: str = ""
    """Of PREFIX.mask, beside a shard of conversations, or of text with spans that are not learned;
    "" where all tokens are."""
    chat_template: str = ""
    """Jinja template that conversations were written with."""
    truncated_documents: int = 0
    """Conversations whose end was cut off, as was asked for."""
    chain: str = ""
    """Ties ``curated`` to the inputs and to both files: neither can be put beside another."""
    version: int = VERSION

    @property
    def is_chat(self) -> bool:
        """Conversations, of which a run learns all, or replies alone."""
        return self.chat_template != ""

    @property
    def identity(self) -> str:
        """``tokenizer_identity``, or "" where it is not known or of another fingerprint."""
        fingerprint, _, identity = self.tokenizer_identity.partition(":")
        return identity if fingerprint == self.tokenizer_fingerprint else ""

    def has_tokenizer_of(self, other: Manifest) -> bool:
        if self.tokenizer_fingerprint == other.tokenizer_fingerprint:
            return True
        return self.identity == other.identity != ""


FileKind: TypeAlias = Literal["bin", "idx", "mask"]
Record = TypeVar("Record", Manifest, InputFile, BackendRecord)


def total_backends(records: Iterable[BackendRecord]) -> tuple[BackendRecord, ...]:
    """One of each name, with all that it did."""
    named: dict[str, list[BackendRecord]] = {}
    for record in records:
        named.setdefault(record.name, []).append(record)
    return tuple(
        BackendRecord(
            name=name,
            documents=sum(record.documents for record in found),
            checked_documents=sum(record.checked_documents for record in found),
            checked_bytes=sum(record.checked_bytes for record in found),
        )
        for name, found in sorted(named.items())
    )


def chained(manifest: Manifest) -> Manifest:
    """The same with the ``chain`` of what it says."""
    return replace(manifest, chain=_chain(asdict(manifest)))


def _chain(content: Mapping[str, Any]) -> str:
    """128 bits, in hexadecimal; "" of text that was not curated."""
    if not content.get("curated"):
        return ""
    tied = {key: content[key] for key in ("curated", "inputs", "bin_sha256", "idx_sha256")}
    if content.get("mask_sha256") and not content.get("chat_template"):
        # What is not learned is a part of what was curated.
        tied["mask_sha256"] = content["mask_sha256"]
    return xxhash.xxh3_128_hexdigest(json.dumps(tied, sort_keys=True).encode())


def of_fingerprint(fingerprint: str, *, identity: str) -> str:
    """Name an identity together with its fingerprint: one that is changed takes both away."""
    return f"{fingerprint}:{identity}" if identity else ""


def manifest_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.json")


def manifest_json(manifest: Manifest) -> str:
    """The text of PREFIX.json."""
    return json.dumps(asdict(manifest), indent=2) + "\n"


def curated_of(prefix: Path | str | None) -> tuple[TextOrigin, ...]:
    """Where the text of a shard was curated, by its manifest."""
    manifest = read_shard_manifest(prefix) if prefix else None
    return manifest.curated if manifest else ()


def read_shard_manifest(prefix: Path | str) -> Manifest | None:
    """The manifest of a shard; None where there is none."""
    path = manifest_path(prefix)
    try:
        content = _json_of(path)
        if content["version"] != VERSION:
            raise DataError(
                f"{path} has version {content['version']}, this megacpt reads {VERSION}; "
                "use the megacpt that wrote it, or tokenize the text again."
            )
        if content.get("chain", "") != _chain(content):
            raise DataError(
                f"{path} says how its text was curated, but not of these files: its chain is "
                f"{content.get('chain') or 'missing'}, and should be {_chain(content) or 'empty'}; "
                "restore it, or tokenize the text again."
            )
        return _parse(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest ({type(error).__name__}: {error}); restore it, "
            "or tokenize the text again. If another tool wrote it, move it away."
        ) from error


def _json_of(path: Path) -> dict[str, Any]:
    """Other tools leave all kinds of PREFIX.json beside a shard, the whole corpus even."""
    if path.stat().st_size > MANIFEST_BYTES_MAX:
        raise _unrelated(path, holds=f"more than {MANIFEST_BYTES_MAX:,} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise _unrelated(path, holds=f"JSON of type {type(content).__name__}, not an object")
    if content.keys().isdisjoint(OWN_KEYS):
        keys = ", ".join(map(repr, list(content)[:5])) or "none"
        raise _unrelated(path, holds=f"none of its keys (those there: {keys})")
    return content


def _unrelated(path: Path, *, holds: str) -> DataError:
    return DataError(
        f"{path} cannot be read as a manifest: it holds {holds}. A shard of another tool needs "
        f"none: move the file away, or rename {path.stem}.bin and .idx. If megacpt wrote the "
        "shard, restore it or tokenize the text again."
    )


def _parse(content: dict[str, Any]) -> Manifest:
    inputs = tuple(_record(InputFile, content=file) for file in content["inputs"])
    backends = tuple(_record(BackendRecord, content=b) for b in content.get("backends", ()))
    curated = origins_of(content.get("curated", ()))
    known = {"inputs": inputs, "backends": backends, "curated": curated}
    return _record(Manifest, content=content | known)


def _record(kind: type[Record], *, content: dict[str, Any]) -> Record:
    """Read the known keys alone; TypeError where one is missing or not of the declared type."""
    declared = {f.name: str(f.type) for f in fields(kind)}
    made = kind(**{name: value for name, value in content.items() if name in declared})
    for name, kinds in declared.items():
        if not _is_of(kinds, value=getattr(made, name)):
            raise TypeError(f"{name} must be {kinds}, got {getattr(made, name)!r}")
    return made


def _is_of(kinds: str, *, value: object) -> bool:
    """Numbers here count something: none is negative."""
    match value:
        case None:
            return kinds.endswith("None")
        case bool() | str():
            return kinds == type(value).__name__
        case int():
            return kinds.startswith("int") and value >= 0
        case dict():
            counts = all(isinstance(k, str) and _is_of("int", value=v) for k, v in value.items())
            return kinds.startswith("dict") and counts
        case _:
            return isinstance(value, tuple) and kinds.startswith("tuple")


def verify(prefix: Path | str, *, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Read the whole shard and raise DataError unless it is what its manifest says.

    ``progress`` is told the bytes read and those to read.
    """
    manifest = read_shard_manifest(prefix)
    if manifest is None:
        raise DataError(f"{manifest_path(prefix)} does not exist: nothing to verify {prefix} with.")
    is_masked = bool(manifest.mask_sha256)
    total, done = manifest.bin_bytes + manifest.idx_bytes + manifest.tokens * is_masked, 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress:
            progress(done, total)

    kinds: tuple[FileKind, ...] = ("idx", "bin", "mask") if is_masked else ("idx", "bin")
    for kind in kinds:
        verify_file(prefix, kind=kind, manifest=manifest, count=count)
    IndexedShard(prefix).check_index()
    return manifest


def verify_file(
    prefix: Path | str,
    *,
    kind: FileKind,
    manifest: Manifest,
    count: Callable[[int], None] = lambda _: None,
) -> None:
    """Read one file and raise DataError unless it has the checksum of the manifest."""
    expected = {
        "bin": manifest.bin_sha256,
        "idx": manifest.idx_sha256,
        "mask": manifest.mask_sha256,
    }[kind]
    digest, path = hashlib.sha256(), Path(f"{prefix}.{kind}")
    try:
        with path.open("rb", buffering=0) as stream:
            while content := stream.read(BYTES_AT_ONCE):
                digest.update(content)
                count(len(content))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; restore the file.") from error
    require_checksum(prefix, kind=kind, expected=expected, found=digest.hexdigest())


def require_checksum(prefix: Path | str, *, kind: str, expected: str, found: str) -> None:
    if found != expected:
        raise _changed(prefix, what=f"sha256 of .{kind}", expected=expected[:12], found=found[:12])


def require_tokenizer(
    prefix: Path | str,
    *,
    fingerprint: str,
    owner: str,
    is_same: Callable[[Manifest], bool] = lambda _: False,
) -> None:
    """Raise DataError if the shard's manifest names another tokenizer than ``owner``'s.

    ``is_same`` is asked where the fingerprint differs.
    """
    found = read_shard_manifest(prefix)
    if found is None or found.tokenizer_fingerprint == fingerprint or is_same(found):
        return
    raise _of_another(found, prefix=prefix, owner=owner, fingerprint=fingerprint)


def require_own(prefix: Path | str, *, tokenizer: Tokenizer) -> None:
    """``require_tokenizer`` of one that is at hand."""
    require_tokenizer(
        prefix,
        fingerprint=tokenizer.fingerprint,
        owner=str(tokenizer.folder),
        is_same=lambda found: tokenizer.wrote(found.tokenizer_fingerprint, identity=found.identity),
    )


def _of_another(found: Manifest, *, prefix: Path | str, owner: str, fingerprint: str) -> DataError:
    require_current(found.tokenizer_fingerprint, where=_tokenizer_of(prefix))
    return DataError(
        f"token shard {prefix} was written with another tokenizer "
        f"({found.tokenizer_fingerprint[:12]}) than that of {owner} ({fingerprint[:12]}); "
        "tokenize its text again with the tokenizer of the model."
    )


def require_current_tokenizer(prefix: Path | str) -> None:
    """Raise ModelError if the shard was written with a tokenizer that is known to be wrong."""
    manifest = read_shard_manifest(prefix)
    if manifest is not None:
        require_current(manifest.tokenizer_fingerprint, where=_tokenizer_of(prefix))


def _tokenizer_of(prefix: Path | str) -> str:
    return f"the tokenizer that token shard {prefix} was written with"


def require_one_tokenizer(prefixes: Sequence[Path | str]) -> list[Manifest | None]:
    """The manifests of the shards; raises DataError if two of them name different tokenizers."""
    manifests = [read_shard_manifest(prefix) for prefix in prefixes]
    first: tuple[Path | str, Manifest] | None = None
    for prefix, manifest in zip(prefixes, manifests, strict=True):
        if manifest is None:
            continue
        first = first or (prefix, manifest)
        if not manifest.has_tokenizer_of(first[1]):
            raise _of_another(
                manifest,
                prefix=prefix,
                owner=f"token shard {first[0]}",
                fingerprint=first[1].tokenizer_fingerprint,
            )
    return manifests


def shard_identity(shard: IndexedShard) -> str:
    """``identity_of`` a shard and the manifest next to it."""
    return identity_of(shard, manifest=read_shard_manifest(shard.prefix))


def identity_of(shard: IndexedShard, *, manifest: Manifest | None) -> str:
    """A string that changes when the shard does; reads a bounded number of pages.

    The manifest's checksums where there is one (its sizes must fit the files), else sizes and
    samples of the tokens.
    """
    if manifest is None:
        return f"{shard.num_documents} {shard.num_tokens} {_sampled_digest(shard)}"
    counted = (manifest.documents, manifest.tokens, manifest.dtype)
    found = (shard.num_documents, shard.num_tokens, shard.dtype.name)
    if counted != found:
        raise _changed(
            shard.prefix, what="documents, tokens and type", expected=counted, found=found
        )
    return " ".join(filter(None, (manifest.bin_sha256, manifest.idx_sha256, manifest.mask_sha256)))


def _sampled_digest(shard: IndexedShard, *, samples: int = 4, length: int = 512) -> str:
    digest = hashlib.sha256(shard.dtype.name.encode())
    last = max(shard.num_tokens - length, 0)
    for n in range(samples):
        start = last * n // (samples - 1)
        digest.update(shard.span(start, stop=min(start + length, shard.num_tokens)).tobytes())
    return digest.hexdigest()


def _changed(prefix: Path | str, *, what: str, expected: object, found: object) -> DataError:
    return DataError(
        f"token shard {prefix} is not what {manifest_path(prefix)} says: {what} should be "
        f"{expected}, but is {found}; restore the files or tokenize the text again."
    )
