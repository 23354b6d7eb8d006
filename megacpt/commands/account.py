# SPDX-License-Identifier: Apache-2.0
"""What a tokenization did, in a few lines for people."""

from __future__ import annotations

from megacpt.shards.manifest import Manifest
from megacpt.shards.tokenize.progress import shown_bytes

FAST = "fastokens"


def account(manifest: Manifest, *, output: str, elapsed_s: float) -> list[str]:
    """``output`` is the prefix as it is to be shown."""
    num_bytes = sum(file.bytes for file in manifest.inputs)
    rate = num_bytes / max(elapsed_s, 1e-9)
    return [
        f"Wrote {manifest.documents:,} documents, {manifest.tokens:,} tokens of "
        f"{shown_bytes(num_bytes)} in {elapsed_s:.1f} s ({shown_bytes(rate)}/s):",
        f"  {output}.bin, {output}.idx, {output}.json",
        *_left_out(manifest, output=output),
        *(f"  {line}" for line in _encoded_by(manifest)),
    ]


def _left_out(manifest: Manifest, *, output: str) -> list[str]:
    lines = []
    if manifest.errors:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(manifest.errors.items()))
        kept = f"; they are in {output}.quarantine.jsonl" * (manifest.on_error == "quarantine")
        lines.append(f"  {sum(manifest.errors.values()):,} bad lines left out ({kinds}){kept}")
    if manifest.empty_documents:
        lines.append(f"  {manifest.empty_documents:,} empty documents left out")
    if manifest.long_documents:
        lines.append(f"  {manifest.long_documents:,} documents have more than 100,000 tokens each")
    return lines


def _encoded_by(manifest: Manifest) -> list[str]:
    lines = []
    for backend in manifest.backends:
        checked = (
            f", equal to tokenizers on {backend.checked_documents:,} excerpts of this text "
            f"({shown_bytes(backend.checked_bytes)})"
        )
        lines.append(f"by {backend.name}{checked * backend.name.startswith(FAST)}")
    return lines
