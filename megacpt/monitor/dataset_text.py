# SPDX-License-Identifier: Apache-2.0
"""What is in a token shard, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from megacpt.corpus.required import common
from megacpt.monitor.terminal import printable
from megacpt.shards.inspect import Inspection, ShownDocument, VocabularyUse
from megacpt.shards.lengths import LengthBin, LengthStatistics
from megacpt.shards.manifest import BackendRecord, Manifest
from megacpt.text import text_size, wrapped

WIDTH = 80
TITLE = 14
BAR = 22
INPUTS_SHOWN = 3
SAMPLE_LINES = 4
EIGHTHS = " ▏▎▍▌▋▊▉"


def shard_text(found: Inspection) -> str:
    """All of it, in lines of at most 80 columns."""
    parts = [_about(found), _lengths(found.lengths), _vocabulary(found), _samples(found.samples)]
    return "\n\n".join(text for lines in parts if (text := "\n".join(lines))) + "\n"


def _about(found: Inspection) -> Iterator[str]:
    lengths = found.lengths
    documents = f"{lengths.documents:,}"
    if found.sequences != lengths.documents:
        documents += f" of {found.sequences:,} sequences"
    yield from _titled("Shard", text=found.prefix)
    yield from _titled("Documents", text=documents)
    yield from _titled("Tokens", text=f"{lengths.tokens:,}, stored as {found.dtype}")
    yield from _titled(
        "Files", text=f".bin {text_size(found.bin_bytes)}, .idx {text_size(found.idx_bytes)}"
    )
    if found.learned is not None:
        yield from _titled("Learned", text=_learned(found, learned=found.learned))
    yield from _origin(found)
    yield from _titled("Ends with EOS", text=_ends(found))


def _learned(found: Inspection, *, learned: int) -> str:
    """Of conversations, by a run that learns replies alone."""
    tokens = found.lengths.tokens
    share = _percent(learned, whole=tokens)
    is_chat = found.manifest is not None and found.manifest.is_chat
    return f"{learned:,} tokens ({share}), by .mask" + " and objective=sft" * is_chat


def _origin(found: Inspection) -> Iterator[str]:
    manifest = found.manifest
    if manifest is None:
        yield from _titled(
            "Origin", text="no manifest: written by another tool, nothing is known of it"
        )
        return
    for n, file in enumerate(manifest.inputs[:INPUTS_SHOWN]):
        yield from _titled(
            "" if n else "Made from", text=f"{_end(file.path)}, {text_size(file.bytes)}"
        )
    if len(manifest.inputs) > INPUTS_SHOWN:
        size = text_size(sum(file.bytes for file in manifest.inputs))
        yield from _titled("", text=f"... {len(manifest.inputs):,} files in all, {size}")
    if found.input_bytes_per_token is not None:
        rate = f"{found.input_bytes_per_token:.2f} bytes of the input files, as they are on disk"
        yield from _titled("A token is", text=rate)
    eos = "no EOS" if manifest.eos_id is None else f"EOS {manifest.eos_id}"
    fingerprint = manifest.tokenizer_fingerprint[:12]
    yield from _titled("Tokenizer", text=f"{fingerprint}, {manifest.vocab_size:,} ids, {eos}")
    for record in manifest.backends:
        yield from _titled("Encoded by", text=_encoded_by(record))
    for origin in manifest.curated:
        done = ", ".join(common([origin])) or "no step"
        yield from _titled("Curated", text=f"{origin.source}: {done} (--history)")
    if left_out := _left_out(manifest):
        yield from _titled("Left out", text=left_out)
    if manifest.long_documents:
        yield from _titled(
            "Long", text=f"{manifest.long_documents:,} documents over 100,000 tokens"
        )
    checked = "both files are as the manifest says" if found.verified else "not compared (--verify)"
    yield from _titled("Checksums", text=checked)


def _encoded_by(record: BackendRecord) -> str:
    if not record.checked_documents:
        return record.name
    return (
        f"{record.name}, the same ids as tokenizers on {record.checked_documents:,} excerpts "
        f"({text_size(record.checked_bytes)})"
    )


def _left_out(manifest: Manifest) -> str:
    """Empty texts, and lines that are no documents, by kind."""
    counts = {"empty": manifest.empty_documents} if manifest.empty_documents else {}
    counts |= manifest.errors
    kept = f"; see {manifest.name}.quarantine.jsonl" if "quarantine" in manifest.on_error else ""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items()) + kept


def _ends(found: Inspection) -> str:
    if found.ends is None:
        return "not known: neither a manifest nor --tokenizer names EOS"
    ends = found.ends
    share = _percent(ends.with_eos, whole=ends.documents)
    words = f"{ends.with_eos:,} of {ends.documents:,} documents looked at ({share})"
    without = found.manifest is not None and not found.manifest.append_eos
    return words + (", written without EOS" if without else "")


def _lengths(lengths: LengthStatistics) -> Iterator[str]:
    yield "Document lengths in tokens"
    if not lengths.documents:
        return
    yield (
        f"  shortest {lengths.shortest:,}, median {lengths.median:,}, mean {lengths.mean:,.1f}, "
        f"longest {lengths.longest:,}"
    )
    yield f"  90 % up to {lengths.percentile_90:,}, 99 % up to {lengths.percentile_99:,}"
    yield ""
    yield f"  {'length':>22} {'documents':>12}  {'':{BAR}} {'share':>7} {'tokens':>8}"
    bins = by_doubling(lengths.bins)
    most = max(b.documents for b in bins)
    for b in bins:
        share = _percent(b.documents, whole=lengths.documents)
        yield (
            f"  {_range(b):>22} {b.documents:>12,}  {bar(b.documents / most):<{BAR}} {share:>7} "
            f"{_percent(b.tokens, whole=lengths.tokens):>8}"
        )


def by_doubling(bins: tuple[LengthBin, ...]) -> list[LengthBin]:
    """From a power of two to the next, of the finer bins of the statistics."""
    merged: dict[int, list[LengthBin]] = {}
    for fine in bins:
        merged.setdefault(fine.first.bit_length(), []).append(fine)
    return [
        LengthBin(
            first=1 << (bits - 1) if bits else 0,
            last=(1 << bits) - 1,
            documents=sum(b.documents for b in parts),
            tokens=sum(b.tokens for b in parts),
        )
        for bits, parts in merged.items()
    ]


def bar(share: float, *, width: int = BAR) -> str:
    """Of full blocks and one of eight widths; anything above zero shows."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _range(b: LengthBin) -> str:
    return f"{b.first:,}" if b.first == b.last else f"{b.first:,} to {b.last:,}"


def _vocabulary(found: Inspection) -> Iterator[str]:
    use = found.vocabulary
    yield f"Vocabulary, {_counted(use, tokens=found.lengths.tokens)}"
    if not use.tokens_counted:
        return
    if use.vocab_size is None:
        yield f"  {use.ids_used:,} ids are used, the largest is {use.largest_id}"
        yield "  (neither a manifest nor --tokenizer says how many there are)"
    else:
        unused = use.vocab_size - use.ids_used
        at_most = "" if use.tokens_counted == found.lengths.tokens else "at most "
        yield (
            f"  {use.ids_used:,} of {use.vocab_size:,} ids are used "
            f"({_percent(use.ids_used, whole=use.vocab_size)}), "
            f"{at_most}{unused:,} are not ({_percent(unused, whole=use.vocab_size)})"
        )
    if use.outside:
        yield f"  WARNING: {use.outside:,} tokens are outside the vocabulary{_ids(use)}"
    if not use.top:
        return
    counted = "the others" if use.outside else "the tokens"
    yield f"  99 % of {counted} are the {use.ids_for_99_percent:,} most frequent ids"
    yield ""
    yield f"  {'id':>8} {'tokens':>15} {'share':>7}  {'text' if use.top[0].text else ''}".rstrip()
    for top in use.top:
        text = "" if top.text is None else shown(top.text, width=WIDTH - 37)
        share = _percent(top.count, whole=use.tokens_counted)
        yield f"  {top.id:>8} {top.count:>15,} {share:>7}  {text}".rstrip()


def _ids(use: VocabularyUse) -> str:
    if use.outside_range is None:
        return ""
    least, largest = use.outside_range
    return f" (id {least})" if least == largest else f" (ids {least} to {largest})"


def _counted(use: VocabularyUse, *, tokens: int) -> str:
    if use.tokens_counted == tokens:
        return "over all tokens"
    share = _percent(use.tokens_counted, whole=tokens)
    return f"over a sample of {use.tokens_counted:,} tokens ({share}; --full reads all)"


def _samples(samples: tuple[ShownDocument, ...]) -> Iterator[str]:
    for n, sample in enumerate(samples):
        if n:
            yield ""
        yield f"Document {sample.document:,}, {sample.tokens:,} tokens"
        yield from (f"  | {line}" for line in _beginning_and_end(sample))


def _beginning_and_end(sample: ShownDocument) -> list[str]:
    lines = textwrap.wrap(printable(sample.text), width=WIDTH - 4)
    end = lines[-1:] if sample.end is None else textwrap.wrap(printable(sample.end), WIDTH - 4)
    if sample.end is None and len(lines) <= SAMPLE_LINES + 2:
        return lines
    return [*lines[:SAMPLE_LINES], "...", *end]


def shown(text: str, *, width: int) -> str:
    """In quotes, with escapes for what a terminal would not show as it is."""
    quoted = repr(text)
    return quoted if len(quoted) <= width else f"{quoted[: width - 3]}..."


def _titled(title: str, *, text: str) -> list[str]:
    return wrapped(printable(text), head=f"{title:<{TITLE}}", indent=TITLE)


def _end(path: str) -> str:
    """The end of a long path says more than its beginning."""
    name = str(Path(path))
    return name if len(name) <= 50 else f"...{name[-47:]}"


def _percent(part: int, *, whole: int) -> str:
    """``12.3%``; what is not all is never shown as 100 %, what is something never as 0 %."""
    if not whole or part in (0, whole):
        return "100%" if part else "0%"
    if 1000 * part < whole:
        return "<0.1%"
    return f"{min(100 * part / whole, 99.9):.1f}%"
