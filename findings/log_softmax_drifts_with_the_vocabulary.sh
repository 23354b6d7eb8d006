#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0, numpy 2.4.6, Python 3.11, on a CPU (x86-64, one thread), seen 2026-11-30.
#
# Log likelihoods in float32 are as exact as a float allows where logsumexp makes them, and are not where
# log_softmax or cross_entropy do: those two add up a row's exponentials with an error that grows with its
# length and has one sign. Of 64 rows of normal logits with a deviation of 3, mean of the error in nats a
# token against float64 (positive: likelier than it is):
#   vocabulary    log_softmax   cross_entropy   logsumexp
#        1,000       +8.5e-09        +8.5e-09    -1.5e-07
#       49,152       +2.5e-06        +2.5e-06    +2.8e-08   SmolLM2
#      128,256       +1.0e-05        +1.0e-05    +1.2e-08   Llama 3
#      262,144       +2.8e-05        +2.8e-05    -1.0e-07   Gemma 3
# A document of 1,000 tokens is so 0.03 nats likelier than it is, always in the same direction; answers of
# twenty tokens differ by more than 1e-4 from those of a library that sums otherwise.
#
# Expected: three functions of one library for one number agree to their type's precision, 1e-6 of a log
# of 17, at any length.
#
# megacpt sums rows with torch.sum (megacpt/model/layers/cross_entropy.py and token_scores.py);
# tests/model/layers/test_token_scores.py holds it to 3e-6 at 262,144 tokens, and tests that compare with
# lm-eval have that library compute its softmax in float64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > sums.py <<'PY'
import torch

torch.set_num_threads(1)
found = {}
for size in (1000, 49152, 128256, 262144):
    logits = torch.randn(64, size, generator=torch.Generator().manual_seed(0)) * 3 + 12
    labels = torch.zeros(64, dtype=torch.long)
    exact = torch.log_softmax(logits.double(), -1)[:, 0]
    results = {
        "log_softmax": torch.log_softmax(logits, -1)[:, 0],
        "cross_entropy": -torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
        "logsumexp": logits[:, 0] - torch.logsumexp(logits, -1),
    }
    errors = {name: float((r.double() - exact).mean()) for name, r in results.items()}
    print(f"{size:>8}", "  ".join(f"{name} {error:+.1e}" for name, error in errors.items()))
    found[size] = errors
for name in ("log_softmax", "cross_entropy"):
    assert found[262144][name] > 1e-5, f"{name} does not drift any more"
    assert found[262144][name] > 3 * found[49152][name] > 0, f"{name} does not grow any more"
assert all(abs(errors["logsumexp"]) < 1e-6 for errors in found.values())
print("seen again")
PY
python3 -m venv venv
venv/bin/pip install -q torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python sums.py
