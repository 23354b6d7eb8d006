# SPDX-License-Identifier: Apache-2.0
"""How a model of the Hugging Face hub is named: ORG/NAME@REVISION, and its folder in the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_ASKED = re.compile(
    rf"(?P<prefix>hf://|https://huggingface\.co/)?(?P<repo>{_NAME}/{_NAME})(@(?P<revision>\w[\w./-]*))?",
    re.ASCII,
)
_STORED = re.compile(
    r"/models--(?P<owner>(?:(?!--)[^/])+)--(?P<name>(?:(?!--)[^/])+)"
    "/snapshots/(?P<commit>[0-9a-f]{40})/?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A repository and a branch, tag or commit of it; no revision: the hub's own choice."""

    repo: str
    revision: str | None = None
    explicit: bool = False
    """Written as an address (hf://...), so that no folder can be meant."""

    @classmethod
    def asked(cls, text: str) -> HubModel | None:
        """What ``ORG/NAME``, ``ORG/NAME@REVISION`` or one of these after hf:// names."""
        found = _ASKED.fullmatch(text)
        # The hub allows neither in a name; a revision with the second would leave the cache.
        if found is None or "--" in found["repo"] or ".." in text:
            return None
        return cls(
            repo=found["repo"], revision=found["revision"], explicit=found["prefix"] is not None
        )

    @classmethod
    def stored(cls, folder: str) -> HubModel | None:
        """What the hub's cache keeps as ``.../models--ORG--NAME/snapshots/COMMIT``."""
        found = _STORED.search(folder)
        if found is None:
            return None
        return cls(repo=f"{found['owner']}/{found['name']}", revision=found["commit"])

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    def may_be(self, other: HubModel) -> bool:
        """Whether the commit ``other`` can be what this asks for; a branch can be any."""
        revision = self.revision or ""
        is_hash = re.fullmatch("[0-9a-f]{7,40}", revision) is not None
        return self.repo == other.repo and (
            not is_hash or (other.revision or "").startswith(revision)
        )


def named(path: str | None) -> str | None:
    """The model as people know it: ``ORG/NAME@COMMIT`` where the hub's cache holds it."""
    stored = HubModel.stored(path or "")
    return path if stored is None else str(stored)
