# SPDX-License-Identifier: Apache-2.0
"""Where a step's record goes: file, terminal, wandb. Ranks other than the first have no sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Sink(Protocol):
    """One destination of records; ``megacpt.monitor`` has three."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take the record of one step."""

    def close(self) -> None:
        """Flush and let go."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Passes each record to every sink."""

    sinks: Sequence[Sink]

    def write(self, record: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(record)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
