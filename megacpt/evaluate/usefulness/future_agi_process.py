# SPDX-License-Identifier: Apache-2.0
"""The process in which metrics of ai-evaluation run: a line of JSON in, a line of JSON out.

Without the cloud it may connect to nothing: what the package tries fails, as on a machine without a
network.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from megacpt.evaluate.line_process import Replies

CONNECTING = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"})
SENDING = "socket.sendto"


def main() -> None:
    lines = sys.stdin
    replies = Replies()
    first = json.loads(lines.readline())
    if not first["cloud"]:
        sys.addaudithook(refuse_network)
    engine = _engine(cloud=first["cloud"])
    replies.say({"ready": True})
    for line in lines:
        replies.say(_scored(json.loads(line), engine=engine))


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook, which nothing in the process can take away."""
    if event in CONNECTING or event == SENDING:
        raise OSError("metrics without the cloud have no network here")


def _engine(*, cloud: bool) -> Any:
    """With all that a first score imports, which takes longer than a score may."""
    from fi.evals.core.engines import LocalEngine, TuringEngine

    if cloud:
        return TuringEngine()
    engine = LocalEngine()
    engine.run("equals", {"output": "a", "expected_output": "a"})
    return engine


def _scored(asked: dict[str, Any], *, engine: Any) -> dict[str, object]:
    model = asked["model"] if asked["cloud"] else None
    try:
        found = engine.run(asked["metric"], asked["inputs"], model=model)
    except (ValueError, TypeError, LookupError, OSError, ImportError) as error:
        return {"score": None, "error": f"{type(error).__name__}: {error}"}
    score = found.score if found.status == "completed" else None
    reason = found.error or found.reason or "the metric has no score"
    return {"score": score, "error": None if score is not None else reason}


if __name__ == "__main__":
    main()
