# SPDX-License-Identifier: Apache-2.0
"""Several token shards to one that holds their documents in the order given.

The bytes are those of tokenizing the inputs of all of them together, in that order. Files are
copied bit by bit and each byte is compared with its manifest's checksum on the way. Where the
sequences of a shard lie apart, each is taken from its place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.corpus.curation import TextOrigin
from megacpt.corpus.documents import QUARANTINE
from megacpt.errors import DataError
from megacpt.shards.loss_mask import open_mask
from megacpt.shards.manifest import (
    Manifest,
    chained,
    identity_of,
    manifest_json,
    manifest_path,
    read_shard_manifest,
    require_checksum,
    require_one_tokenizer,
    total_backends,
    verify_file,
)
from megacpt.shards.reader import IndexedShard, Tokens
from megacpt.shards.writer import AT_ONCE, MASK, DocumentBounds, ShardFiles, ShardWriter

Progress = Callable[[int, int], None]
"""Called with the bytes copied and those to copy."""
EQUAL_FIELDS = ("vocab_size", "eos_id", "append_eos", "special")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    files: ShardFiles
    manifest: Manifest | None
    """None where no shard had one."""


def merge_shards(
    prefixes: Sequence[Path | str],
    *,
    output_prefix: Path | str,
    progress: Progress | None = None,
) -> Merged:
    """Write ``output_prefix``.bin and .idx, and .json unless none of the shards has a manifest."""
    _require_free_name(prefixes, output_prefix=output_prefix)
    shards = [IndexedShard(prefix, end_to_end=False) for prefix in prefixes]
    dtype = _one_dtype(shards)
    manifests = _manifests(shards)
    _require_described(output_prefix, manifests=manifests)
    for shard in shards:
        shard.check_bounds()

    def describe(files: ShardFiles) -> Manifest:
        return _merged(manifests, files=files, name=Path(output_prefix).name)

    with ShardWriter(output_prefix, dtype=dtype) as writer:
        _copy(shards, manifests=manifests, writer=writer, progress=progress)
        _copy_masks(shards, manifests=manifests, writer=writer)
        has_bad = _copy_quarantine(prefixes, writer=writer)
        files = writer.publish(
            beside=(QUARANTINE,) if has_bad else (),
            describe=(lambda files: manifest_json(describe(files))) if manifests else None,
            bounds=_bounds(shards),
        )
    return Merged(files=files, manifest=describe(files) if manifests else None)


def shards_in(folder: Path | str) -> list[Path]:
    """The prefixes of all shards in a folder, in the order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that holds the shards.")
    found = {kind: {p.with_suffix("") for p in folder.glob(f"*.{kind}")} for kind in ("bin", "idx")}
    alone = sorted(found["bin"] ^ found["idx"])
    if alone:
        missing = "idx" if alone[0] in found["bin"] else "bin"
        raise DataError(f"{alone[0]}.{missing} is missing; restore it or move {alone[0]}.* away.")
    if not found["bin"]:
        raise DataError(f"{folder} holds no token shards (.bin and .idx); give another folder.")
    return sorted(found["bin"])


def _require_free_name(prefixes: Sequence[Path | str], *, output_prefix: Path | str) -> None:
    if len(prefixes) == 0:
        raise DataError("there are no shards to merge; give their prefixes.")
    if Path(output_prefix).resolve() in {Path(prefix).resolve() for prefix in prefixes}:
        raise DataError(f"output prefix {output_prefix} is one of the shards; choose another.")
    read_shard_manifest(output_prefix)  # refuses to replace a JSON file that is something else


def _require_described(output_prefix: Path | str, *, manifests: Sequence[Manifest]) -> None:
    """A manifest of another shard must not stay next to one that has none."""
    if not manifests and manifest_path(output_prefix).exists():
        raise DataError(
            f"{manifest_path(output_prefix)} describes another shard, and what is merged has no "
            "manifest; remove that file or choose another output prefix."
        )


def _one_dtype(shards: Sequence[IndexedShard]) -> np.dtype[np.integer[Any]]:
    for shard in shards:
        if shard.dtype != shards[0].dtype:
            raise DataError(
                f"token shard {shard.prefix} holds {shard.dtype.name}, but {shards[0].prefix} "
                f"{shards[0].dtype.name}; tokenize one of them again."
            )
    return shards[0].dtype


def _manifests(shards: Sequence[IndexedShard]) -> list[Manifest]:
    """All, of shards that one tokenizer wrote in one way; or none, if no shard has one."""
    prefixes = [shard.prefix for shard in shards]
    found = require_one_tokenizer(prefixes)
    known = [manifest for manifest in found if manifest is not None]
    if known and len(known) < len(found):
        bare = prefixes[found.index(None)]
        raise DataError(
            f"token shard {bare} has no manifest ({manifest_path(bare)}), but others have: what is "
            "merged could not be described. Tokenize its text again, or move the others' away."
        )
    _require_one_kind(prefixes, manifests=known)
    for prefix, manifest in zip(prefixes, known, strict=False):
        for field in EQUAL_FIELDS:
            expected, written = getattr(known[0], field), getattr(manifest, field)
            if expected != written:
                raise DataError(
                    f"token shard {prefix} was written with {field}={written!r}, but "
                    f"{prefixes[0]} with {expected!r}; tokenize one of them again."
                )
    for shard, manifest in zip(shards, known, strict=False):
        identity_of(shard, manifest=manifest)  # refuses files that the manifest does not fit
        verify_file(shard.prefix, kind="idx", manifest=manifest)
    return known


def _copy(
    shards: Sequence[IndexedShard],
    *,
    manifests: Sequence[Manifest],
    writer: ShardWriter,
    progress: Progress | None,
) -> None:
    total = sum(int(s.sequence_lengths.sum(dtype=np.int64)) for s in shards) * writer.dtype.itemsize
    for n, shard in enumerate(shards):
        digest = hashlib.sha256()
        for ids in _all_tokens(shard):
            digest.update(ids.data)
            writer.add_tokens(ids)
            if progress:
                progress(writer.tokens * writer.dtype.itemsize, total)
        if manifests:
            expected = manifests[n].bin_sha256
            require_checksum(shard.prefix, kind="bin", expected=expected, found=digest.hexdigest())
        for at in range(0, shard.sequence_lengths.size, AT_ONCE):
            writer.add_lengths(shard.sequence_lengths[at : at + AT_ONCE])


def _all_tokens(shard: IndexedShard) -> Iterator[Tokens]:
    """The tokens of all sequences, in their order; read, not mapped: mapped pages would count as
    this process's memory."""
    with Path(f"{shard.prefix}.bin").open("rb", buffering=0) as stream:
        for start, stop in shard.runs():
            stream.seek(start * shard.dtype.itemsize)
            for at in range(start, stop, AT_ONCE):
                yield np.fromfile(stream, dtype=shard.dtype, count=min(AT_ONCE, stop - at))


def _bounds(shards: Sequence[IndexedShard]) -> DocumentBounds:
    """Document bounds of all shards, those of each moved by the sequences before it."""

    def numbers() -> Iterator[npt.NDArray[np.int64]]:
        sequences = 0
        for shard in shards:
            bounds = shard.document_bounds[:-1]
            for at in range(0, bounds.size, AT_ONCE):
                yield bounds[at : at + AT_ONCE] + sequences
            sequences += shard.sequence_lengths.size
        yield np.array([sequences])

    return DocumentBounds(documents=sum(s.num_documents for s in shards), numbers=numbers())


def _copy_quarantine(prefixes: Sequence[Path | str], *, writer: ShardWriter) -> bool:
    """The lines that were set aside, of all shards; whether there are any."""
    paths = [Path(f"{prefix}.{QUARANTINE}") for prefix in prefixes]
    found = [path for path in paths if path.exists()]
    if found:
        writer.write_beside(QUARANTINE, content=_contents(found))
    return bool(found)


def _copy_masks(
    shards: Sequence[IndexedShard], *, manifests: Sequence[Manifest], writer: ShardWriter
) -> None:
    """The masks of all shards, one after another; nothing where none has one."""
    if not any(manifest.mask_sha256 for manifest in manifests):
        return
    for shard, manifest in zip(shards, manifests, strict=True):
        mask_T = open_mask(shard.prefix, manifest=manifest)
        if mask_T is None:
            for at in range(0, manifest.tokens, AT_ONCE):
                writer.add_mask(np.ones(min(AT_ONCE, manifest.tokens - at), dtype=np.uint8))
            continue
        digest = hashlib.sha256()
        for at in range(0, mask_T.size, AT_ONCE):
            digest.update(mask_T[at : at + AT_ONCE].data)
            writer.add_mask(mask_T[at : at + AT_ONCE])
        expected = manifest.mask_sha256
        require_checksum(shard.prefix, kind=MASK, expected=expected, found=digest.hexdigest())


def _require_one_kind(prefixes: Sequence[Path], *, manifests: Sequence[Manifest]) -> None:
    """Text, or conversations in the words of one template."""
    chats = [p for p, m in zip(prefixes, manifests, strict=False) if m.is_chat]
    for prefix, manifest in zip(prefixes, manifests, strict=False):
        if chats and not manifest.is_chat:
            raise DataError(
                f"token shard {prefix} is text, but {chats[0]} holds conversations: they are "
                "sources of one run each, not one shard."
            )
        if manifest.chat_template != manifests[0].chat_template:
            raise DataError(
                f"token shard {prefix} was written with another chat template than "
                f"{prefixes[0]}; tokenize both with one --chat-template."
            )


def _contents(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as stream:
            yield from iter(lambda: stream.read(AT_ONCE), b"")


def _merged(manifests: Sequence[Manifest], *, files: ShardFiles, name: str) -> Manifest:
    """What tokenizing everything at once would have written."""
    policies = dict.fromkeys(m.on_error for m in manifests if m.errors)
    # One that knows what its tokenizer computes says more than one of an older megacpt.
    first = next((m for m in manifests if m.identity), manifests[0])
    whole = replace(
        first,
        name=name,
        key=", ".join(dict.fromkeys(manifest.key for manifest in manifests)),
        truncated_documents=sum(manifest.truncated_documents for manifest in manifests),
        empty_documents=sum(manifest.empty_documents for manifest in manifests),
        long_documents=sum(manifest.long_documents for manifest in manifests),
        on_error=", ".join(policies) or "stop",
        errors=dict(sum((Counter(manifest.errors) for manifest in manifests), Counter())),
        backends=total_backends(r for manifest in manifests for r in manifest.backends),
        inputs=tuple(file for manifest in manifests for file in manifest.inputs),
        curated=_curated(manifests),
        **asdict(files),
    )
    return chained(whole)


def _curated(manifests: Sequence[Manifest]) -> tuple[TextOrigin, ...]:
    """Of all shards, where each of them has been curated."""
    if not all(manifest.curated for manifest in manifests):
        return ()
    every = (origin for manifest in manifests for origin in manifest.curated)
    return tuple({(o.fingerprint, o.source): o for o in every}.values())
