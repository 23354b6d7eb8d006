# SPDX-License-Identifier: Apache-2.0
"""E-mail addresses, IP addresses and phone numbers, replaced by ones that are nobody's.

datatrove's formatter goes from one replacement to the next over all documents, so that what becomes
of one depends on those before it, and it finds IPv4 addresses within longer rows of numbers, such
as object identifiers, and none of IPv6. In 2,310 licences it finds 40, each the number of a section
or version. So the patterns are our own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from megacpt.curate.filters.rule import Ruling
from megacpt.curate.filters.settings import PersonalConfig
from megacpt.curate.filters.threshold import Threshold
from megacpt.curate.packages import need

EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w%+'-]{1,64}(?:\.[\w%+'-]{1,64}){0,8}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
IPV4 = re.compile(rf"(?<![\w.-])(?<!ersion )(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.\w)")
IPV6 = re.compile(
    rf"(?<![\w:.])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:[0-9A-Fa-f]{{1,4}}|(?:{_OCTET}\.){{3}}{_OCTET})?(?![\w:])"
)
"""More than addresses; each is looked at once more."""
SECTION = re.compile(r"(?<![\w.])\d+\.\d+\.\d+(?!\w|\.\d)")
"""A number of three parts; where the text has 3.1.2, 3.1.2.4 is below it and no address."""
DIGITS = re.compile(r"\d(?:\D{0,3}\d){6}")
"""In every phone number."""
Span = tuple[int, int]


class Personal:
    """Nothing is left out."""

    def __init__(self, settings: PersonalConfig) -> None:
        self.limits: Mapping[str, Threshold] = {}
        self._kinds: list[tuple[str, Callable[[str], Iterator[Span]], str]] = []
        if settings.email:
            self._kinds.append(("email", _emails, settings.email_text))
        if settings.ip:
            self._kinds.append(("ip", _addresses, settings.ip_text))
        if settings.phone_region is not None:
            phones = Phones(settings.phone_region)
            self._kinds.append(("phone", phones, settings.phone_text))

    def __call__(self, text: str) -> Ruling:
        changes, detail = [], {}
        for name, spans, instead in self._kinds:
            found = [(start, end) for start, end in spans(text) if text[start:end] != instead]
            if found:
                text = _replaced(text, spans=found, instead=instead)
                changes.append(f"pii_{name}")
                detail[name] = len(found)
        return Ruling(text=text, changes=tuple(changes), detail=detail)


class Phones:
    """Valid numbers, by Google's library."""

    def __init__(self, region: str) -> None:
        self._library: Any = need("phonenumbers")
        self._region = region

    def __call__(self, text: str) -> Iterator[Span]:
        if DIGITS.search(text):
            # The library's own bound of tries would leave the end of a long text unread.
            matcher = self._library.PhoneNumberMatcher(text, self._region, max_tries=len(text))
            yield from ((match.start, match.end) for match in matcher)


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from (match.span() for match in EMAIL.finditer(text))


def _addresses(text: str) -> Iterator[Span]:
    found = [m.span() for pattern in (IPV4, IPV6) for m in pattern.finditer(text)]
    public = [(start, end) for start, end in sorted(found) if _is_public(text[start:end])]
    sections = set(SECTION.findall(text)) if public else set()
    last = 0
    for start, end in public:
        if start >= last and text[start:end].rpartition(".")[0] not in sections:
            last = end
            yield start, end


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _replaced(text: str, *, spans: list[Span], instead: str) -> str:
    pieces, last = [], 0
    for start, end in spans:
        pieces += [text[last:start], instead]
        last = end
    return "".join([*pieces, text[last:]])
