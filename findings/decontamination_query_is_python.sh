#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# lm-eval 0.4.13, datasets 5.2.0, Python 3.11.
#
# A task of lm-eval may say what of a document is to be looked for in training text:
# doc_to_decontamination_query. What its template makes of a document is read as a Python expression
# (ast.literal_eval), as the list of doc_to_choice is. So of a question in words there is a SyntaxError:
# ARC's own "Question: {{question}}\nAnswer:" has no document that can be asked for. Of a question that
# happens to be an expression something else comes back without a word: a number without the
# marks between its digits, None, two texts made one. lm-eval itself never asks any more, so nothing fails in
# an evaluation; who collects the queries of all tasks to clean a corpus with does, or loses some. A query
# that is the bare name of a field is fine, and so is doc_to_text.
#
# Seen:
#   template of ARC   SyntaxError for 'Why is the sky blue?'
#   {{question}}      SyntaxError for 'Why is the sky blue?'
#   {{question}}      1000 for '1_000'
#   {{question}}      None for 'None'
#   {{question}}      'to be' for '"to" " be"'
#   question          'Why is the sky blue?' for 'Why is the sky blue?'
#   lm-eval's own files of tasks with a template there: 60
#
# megacpt decontaminate takes what doc_to_text shows (megacpt/curate/decontaminate/harness.py,
# tests/curate/decontaminate/test_harness.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv && venv/bin/pip install -q lm-eval==0.4.13 datasets==5.2.0
cat > run.py <<'PY'
import json
import pathlib
import re

import lm_eval.tasks

QUESTIONS = ["Why is the sky blue?", "1_000", "None", '"to" " be"']
pathlib.Path("data.jsonl").write_text(
    "".join(json.dumps({"question": text, "answer": "none"}) + "\n" for text in QUESTIONS)
)


def query(template, *, name):
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(pathlib.Path("data.jsonl").absolute())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "should_decontaminate": True,
        "doc_to_decontamination_query": template,
    }
    pathlib.Path(f"{name}.yaml").write_text(json.dumps(task))
    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    (loaded,) = manager.load(f"{name}.yaml")["tasks"].values()
    for document in loaded.test_docs():
        try:
            yield repr(loaded.doc_to_decontamination_query(document)), document["question"]
        except Exception as error:
            yield type(error).__name__, document["question"]


(_, text), *_ = arc = list(query("Question: {{question}}\nAnswer:", name="arc"))
print("template of ARC  ", arc[0][0], "for", repr(text))
for found, text in query("{{question}}", name="bare"):
    print("{{question}}     ", found, "for", repr(text))
found, text = next(query("question", name="field"))
print("question         ", found, "for", repr(text))

folder = pathlib.Path(lm_eval.tasks.__file__).parent
pattern = re.compile(r"^doc_to_decontamination_query:.*\{\{", re.MULTILINE)
count = sum(
    bool(pattern.search(path.read_text("utf-8", "replace")))
    for path in folder.rglob("*")
    if path.is_file() and (path.suffix == ".yaml" or path.name.endswith("_yaml"))
)
print("lm-eval's own files of tasks with a template there:", count)
PY
HF_HOME="$PWD/cache" venv/bin/python run.py 2>/dev/null | tee seen.txt
cat > expected.txt <<'TXT'
template of ARC   SyntaxError for 'Why is the sky blue?'
{{question}}      SyntaxError for 'Why is the sky blue?'
{{question}}      1000 for '1_000'
{{question}}      None for 'None'
{{question}}      'to be' for '"to" " be"'
question          'Why is the sky blue?' for 'Why is the sky blue?'
lm-eval's own files of tasks with a template there: 60
TXT
cmp seen.txt expected.txt
