# SPDX-License-Identifier: Apache-2.0
"""The process of test_line_process.py: says back what it was told, or does what it is told."""

from __future__ import annotations

import json
import os
import sys
import time

from megacpt.evaluate.line_process import Replies


def main() -> None:
    replies = Replies()
    sys.stdout.write("a library speaks\n")
    for line in sys.stdin:
        said = json.loads(line)
        if said == "end":
            return
        if said == "hang":
            time.sleep(60)
        replies.say({"said": said, "variable": os.environ.get("LINE_ECHO")})


if __name__ == "__main__":
    main()
