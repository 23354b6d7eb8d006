#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# megatron-core 0.16.1, seen 2026-11-29.
#
# An .idx gives each sequence its own byte offset in .bin, and IndexedDataset's dataset[n] reads by it:
# one can drop or sort documents by writing a new .idx of some megabytes beside a .bin of terabytes,
# and a .bin may have bytes that no sequence holds (preallocated, padded). But only dataset[n] and
# get() look at the offsets. A slice reads from the first one's offset on for as many tokens as all have, so
# dataset[0:2] holds other tokens than dataset[0] and dataset[1]: those of documents that were dropped.
# And IndexedDatasetBuilder.add_index (tools/merge_datasets.py) copies all of .bin and counts new
# offsets from the lengths: what is merged is another text from the first gap on, also in all the
# shards that come after, whose own files are as they should be. Nothing is raised or logged.
#
# Expected: the same tokens by number, in a slice and once merged. Seen:
#   by number      [1, 2, 3] [6, 7, 8, 9]
#   in a slice     [1, 2, 3] [4, 5, 6, 7]
#   merged         [1, 2, 3] [4, 5, 6, 7] [8, 9, 1] [2, 3] [4, 5, 6, 7]
#   4 bytes more   [1, 2, 3] [4, 5] [6, 7, 8, 9] [0, 1, 2] [3, 4] [5, 6, 7, 8]
#
# megacpt refuses to train on such a shard by name, and `megacpt merge` takes each sequence from its
# offset (tests/shards/test_header.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > read.py <<'PY'
import os
import struct
import warnings

warnings.filterwarnings("ignore")
import numpy
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder


def build(prefix, add):
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.int32)
    add(builder)
    builder.finalize(f"{prefix}.idx")
    return IndexedDataset(prefix)


def add_documents(builder):
    for ids in ([1, 2, 3], [4, 5], [6, 7, 8, 9]):
        builder.add_document(torch.tensor(ids), [len(ids)])


def merged(prefix, *parts):
    dataset = build(prefix, lambda builder: [builder.add_index(part) for part in parts])
    return [dataset[n].tolist() for n in range(len(dataset))]


build("all", add_documents)
# Documents 0 and 2 alone, at bytes 0 and 20 of the same tokens.
os.link("all.bin", "some.bin")
with open("some.idx", "wb") as stream:
    stream.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 2, 3))
    stream.write(struct.pack("<2i2q3q", 3, 4, 0, 20, 0, 1, 2))
some = IndexedDataset("some")
# The whole shard, with 4 bytes after the last sequence.
os.link("all.idx", "longer.idx")
with open("all.bin", "rb") as whole, open("longer.bin", "wb") as longer:
    longer.write(whole.read() + bytes(4))
longer = IndexedDataset("longer")
assert [longer[n].tolist() for n in range(3)] == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]

found = {
    "by number": [some[n].tolist() for n in range(2)],
    "in a slice": [ids.tolist() for ids in some[0:2]],
    "merged": merged("first", "some", "all"),
    "4 bytes more": merged("second", "longer", "all"),
}
for how, ids in found.items():
    print(f"{how:14} {' '.join(map(str, ids))}")
assert found["by number"] == [[1, 2, 3], [6, 7, 8, 9]]
assert found["in a slice"] == [[1, 2, 3], [4, 5, 6, 7]]
assert found["merged"][1:] == [[4, 5, 6, 7], [8, 9, 1], [2, 3], [4, 5, 6, 7]]
assert found["4 bytes more"][3:] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
PY
python3 -m venv venv
venv/bin/pip -q install megatron-core==0.16.1 torch==2.13.0 numpy==2.4.6
venv/bin/python read.py
