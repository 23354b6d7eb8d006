#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# datatrove 0.10.1, NumPy 2.4.6, Python 3.11.
#
# SamplerFilter(rate) without a seed draws anew in each run, and alike in all tasks of a run: the
# generator is made when the pipeline is written down, and each task works on a copy of it. So task 0
# and task 3 keep documents of the same numbers. Of files that go line by line with one another
# (translations, a page and its summary, columns of one table) the same lines stay, and the sizes of
# the tasks' samples do not even out: four tasks of 1,000 documents keep four times what one keeps.
# As one task, the four files are sampled each on its own. A filter of the hash of the text does not
# have this (and keeps the same documents in every run).
#
# Seen:
#   4 tasks: the same lines of all 4 files True; another run keeps the same lines False
#   1 task:  the same lines of all 4 files False
#
# megacpt samples by a hash of the document's id (tests/curate/balance/test_run.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv && venv/bin/pip install -q datatrove==0.10.1 numpy==2.4.6 orjson==3.11.9 \
  regex==2026.11.19
cat > run.py <<'PY'
import json
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import SamplerFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

Path("in").mkdir()
for file in range(4):
    lines = (json.dumps({"text": f"file {file}", "id": f"{file}/{n}"}) for n in range(1000))
    Path(f"in/{file}.jsonl").write_text("\n".join(lines) + "\n")


def kept(name, *, tasks):
    """Numbers of the lines that stay, of each file."""
    LocalPipelineExecutor(
        [JsonlReader("in"), SamplerFilter(rate=0.1), JsonlWriter(name, compression=None)],
        tasks=tasks,
        workers=1,
        logging_dir=f"logs-{name}",
    ).run()
    found = {n: [] for n in range(4)}
    for path in sorted(Path(name).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            file, number = json.loads(line)["id"].split("/")
            found[int(file)].append(int(number))
    return found


four, again, one = kept("four", tasks=4), kept("again", tasks=4), kept("one", tasks=1)
alike = [all(found[0] == found[n] for n in range(4)) for found in (four, again, one)]
assert all(60 < len(lines) < 150 for found in (four, again, one) for lines in found.values())
print(
    f"4 tasks: the same lines of all 4 files {alike[0] and alike[1]}; "
    f"another run keeps the same lines {four == again}"
)
print(f"1 task:  the same lines of all 4 files {alike[2]}")
PY
venv/bin/python run.py 2>/dev/null | tee seen.txt
cat > expected.txt <<'TXT'
4 tasks: the same lines of all 4 files True; another run keeps the same lines False
1 task:  the same lines of all 4 files False
TXT
cmp seen.txt expected.txt
