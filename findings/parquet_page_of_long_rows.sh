#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# pyarrow 26.0.1: data_page_size bounds no page of long rows. The writer looks at the size of a page once
# in write_batch_size rows (1024), so 1024 texts of 100 kB are one page of 100 MB though pages are said to
# have 1 MiB, and to read the first row a reader holds the whole page, streaming or not. With
# write_batch_size=1 pages are as large as they should be.
#
# Seen:
#   default:            first row of 102,400 bytes read, 101 MiB held
#   write_batch_size=1: first row of 102,400 bytes read, 2 MiB held
#
# megacpt reads rows as they come and states pages as what bounds its memory (docs/tokenize.md,
# tests/corpus/test_parquet.py).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1
cd "$folder"
venv/bin/python - <<'PY'
import random
import pyarrow as pa
from pyarrow import parquet as pq

rng = random.Random(0)
text = pa.array([rng.randbytes(51_200).hex() for _ in range(1024)])
held = {}
for name, options in {"default": {}, "write_batch_size=1": {"write_batch_size": 1}}.items():
    pq.write_table(pa.table({"text": text}), "a.parquet", use_dictionary=False,
                   compression="none", data_page_size=1 << 20, **options)
    before = pa.total_allocated_bytes()
    file = pq.ParquetFile("a.parquet", pre_buffer=False, buffer_size=1 << 20)
    rows = file.iter_batches(1)
    batch = next(rows)
    held[name] = (pa.total_allocated_bytes() - before) >> 20
    size = len(batch.column(0)[0].as_py())
    print(f"{name + ':':<19} first row of {size:,} bytes read, {held[name]} MiB held")
    del file, rows, batch
assert held["default"] > 90 and held["write_batch_size=1"] < 5, held
PY
