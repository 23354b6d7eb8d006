# SPDX-License-Identifier: Apache-2.0
"""The settings of rewriting."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from megacpt.config.limits import COUNT, NOT_NEGATIVE, POSITIVE, Limits, limited

SHARE = Limits(at_least=0, at_most=1)


class RawPairs(enum.Enum):
    refuse = "refuse"
    """Each is rewritten; a source of them that is trained on without this section is refused."""
    allow = "allow"
    """They stay as they are: what their fields say, one after another."""


@dataclass(kw_only=True, slots=True)
class FillConfig:
    sources: str
    """Names of the sources of code, separated by commas."""
    tokenizer: str
    """Of the model: its folder or file, which must have these three as single tokens."""
    prefix: str
    """Token before what precedes the gap, such as <|fim_prefix|>."""
    suffix: str
    """Token before what follows it."""
    middle: str
    """Token before what is in it."""
    rate: float = limited(0.5, limits=SHARE)
    """Share of documents whose middle is moved to their end."""
    spm_rate: float = limited(0.5, limits=SHARE)
    """Share of these in which the suffix comes first (SPM), not the prefix (PSM)."""
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class EndpointConfig:
    url: str
    """Up to /v1, of a server with the OpenAI interface: what it is sent are the documents."""
    model: str
    sources: str
    """Names of the sources that are sent, separated by commas."""
    prompt: str = "encyclopedia"
    """``encyclopedia``, ``textbook``, or a file: what the model is asked, with {{ text }}."""
    key_variable: str | None = None
    """Environment variable that holds the key."""
    max_tokens: int = limited(2048, limits=COUNT)
    """Of a reply; a document whose reply is longer stays as it is."""
    temperature: float = limited(0.7, limits=NOT_NEGATIVE)
    extra: str = "{}"
    """JSON object of other fields of each request, and of these where a server wants others: null
    leaves one out."""
    concurrency: int = limited(8, limits=COUNT)
    """Requests at once."""
    timeout_s: float = limited(120.0, limits=POSITIVE)
    retries: int = limited(5, limits=NOT_NEGATIVE)
    """Of a request that fails for a reason that may pass, after longer and longer waits."""
    cache: str = "rewrite-cache"
    """Folder of the replies: what lies in it is not asked again."""
    price_in: float = limited(0.0, limits=NOT_NEGATIVE)
    """Of a million tokens sent, in your currency, to be told the cost beforehand."""
    price_out: float = limited(0.0, limits=NOT_NEGATIVE)
    """Of a million tokens of replies."""
    max_requests: int = limited(0, limits=NOT_NEGATIVE)
    """Nothing is sent where more would be needed, unless ``yes``."""
    yes: bool = False
    """Send as many as it takes."""


@dataclass(kw_only=True, slots=True)
class RewriteConfig:
    raw_pairs: RawPairs = RawPairs.refuse
    """Questions with answers, conversations and the like, as they are."""
    templates: str = "neutral"
    """What records become: ``neutral`` adds no word of any language, ``english`` also English
    ones; or a YAML file of templates."""
    seed: int = 0
    """Another gives records other templates."""
    endpoint: EndpointConfig | None = None
    """A model that rewrites documents."""
    fill_in_the_middle: FillConfig | None = None
    """Code whose middle is to be found from both its sides."""
