#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ai-evaluation 1.1.0, Python 3.11, seen 2026-11-30.
#
# The local metric factual_consistency compares the claims of an answer with a reference. An answer without
# a claim has none that is wrong: the empty answer gets 1.0, the best score there is, as "completed", and so
# does any answer whose sentences it does not find, such as Japanese ones, right or wrong. A model that
# learned to say nothing is the best by this metric.
#
# Expected: no score, or a status that tells it from an answer that was checked.
# Seen:
#   empty                     1.0 completed
#   wrong, Japanese           1.0 completed
#
# megacpt offers no metric of that package that judges claims (megacpt/plan/rules/usefulness.py), and an
# empty answer is a failure that is counted: tests/evaluate/usefulness/test_suite.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > scores.py <<'PY'
from fi.evals import evaluate

REFERENCE = "The shop opens at nine."
ANSWERS = {"empty": "", "wrong, Japanese": "店は六時に開きます。"}
for name, answer in ANSWERS.items():
    found = evaluate("factual_consistency", output=answer, response=answer, reference=REFERENCE)
    print(f"{name:<25} {found.score} {found.status}")
    assert (found.score, found.status) == (1.0, "completed"), f"{name} is told apart now"
print("seen again")
PY
python3 -m venv venv
venv/bin/pip install -q ai-evaluation==1.1.0 litellm==1.80.0 openai==1.109.1
venv/bin/python scores.py 2> errors.txt || { cat errors.txt; exit 1; }
