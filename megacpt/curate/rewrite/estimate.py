# SPDX-License-Identifier: Apache-2.0
"""How much a model would be asked, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megacpt.curate.context import Context
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.rewrite.drafts import Drafter
from megacpt.curate.rewrite.endpoint import is_asked
from megacpt.curate.rewrite.request import Asker, Cache
from megacpt.curate.rewrite.settings import EndpointConfig, RewriteConfig
from megacpt.curate.sources import Corpus
from megacpt.curate.work import Reading, make_pieces
from megacpt.errors import ConfigError
from megacpt.text import count

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEstimate:
    documents: int = 0
    cached: int = 0
    """... of them, whose replies are there."""
    bytes_in: int = 0
    """Of the requests for the others."""

    @property
    def requests(self) -> int:
        return self.documents - self.cached

    def told(self, endpoint: EndpointConfig) -> str:
        tokens_in, tokens_out = self.bytes_in / BYTES_PER_TOKEN, self.requests * endpoint.max_tokens
        cost = (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6
        priced = f", at most about {cost:,.2f} at your prices" if cost else ""
        return (
            f"{endpoint.url}: {self.requests:,} requests to {endpoint.model}, about "
            f"{count(tokens_in)} tokens, for at most {count(tokens_out)}{priced}; {self.cached:,} "
            f"replies are in {endpoint.cache}."
        )


def require_consent(found: RequestEstimate, *, settings: EndpointConfig) -> None:
    if found.requests > settings.max_requests and not settings.yes:
        raise ConfigError(
            f"{found.told(settings)} Nothing was sent; allow it with "
            f"rewrite.endpoint.max_requests={found.requests}, or rewrite.endpoint.yes=true (of "
            "megacpt rewrite: --yes)."
        )


def estimate_requests(
    corpus: Corpus, *, settings: RewriteConfig, numbers: Sequence[int], context: Context
) -> RequestEstimate:
    """Of the pieces ``numbers``, all of them on each of several machines; counted anew each time,
    for the cache has grown."""
    given = context.reading
    context.folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=context.folder.parent) as folder:
        records = make_pieces(
            corpus,
            settings=_Counting(settings=settings),
            folder=Path(folder) / "estimate",
            reading=Reading(
                workers=given.workers,
                on_error=given.on_error,
                max_document_bytes=given.max_document_bytes,
            ),
            numbers=numbers,
        )
    with suppress(OSError):
        # Where nothing else is in it: what is refused now leaves nothing behind.
        context.folder.parent.rmdir()
    sums = {name: sum(record[name] for record in records) for name in asdict(RequestEstimate())}
    return RequestEstimate(**sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counting:
    settings: RewriteConfig

    def to_json(self) -> Mapping[str, Any]:
        return {}

    def open(self) -> Callable[[Path], _Piece]:
        endpoint = self.settings.endpoint
        assert endpoint is not None
        return partial(
            _Piece,
            drafter=Drafter(self.settings),
            asker=Asker(endpoint),
            cache=Cache(Path(endpoint.cache)),
        )


class _Piece:
    def __init__(self, _stem: Path, *, drafter: Drafter, asker: Asker, cache: Cache) -> None:
        self._drafter, self._asker, self._cache = drafter, asker, cache
        self._found = RequestEstimate()

    def work(self, batch: DocumentBatch) -> RequestEstimate:
        drafts = [draft for d in batch.documents if is_asked(draft := self._drafter(d))]
        requests = [self._asker(draft.document.text) for draft in drafts]
        new = [request for request in requests if request not in self._cache]
        return RequestEstimate(
            documents=len(requests),
            cached=len(requests) - len(new),
            bytes_in=sum(request.num_bytes for request in new),
        )

    def settle(self, made: RequestEstimate) -> None:
        self._found = RequestEstimate(
            documents=self._found.documents + made.documents,
            cached=self._found.cached + made.cached,
            bytes_in=self._found.bytes_in + made.bytes_in,
        )

    def finish(self) -> Mapping[str, Any]:
        return asdict(self._found)
