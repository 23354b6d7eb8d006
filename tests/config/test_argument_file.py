# SPDX-License-Identifier: Apache-2.0
"""Options of scripts, against what bash itself would pass to the program."""

from __future__ import annotations

import argparse
import subprocess

import pytest

from megacpt.config.argument_file import options_of

ARRAYS = """#!/bin/bash
TP=${TP:-2}                      # a default
export DATA=${1:-"data/law_text_document"}
MICRO=4
GLOBAL=$((MICRO * 8 + 0))
MODEL=(
    --num-layers 24
    # --hidden-size 9
    --lr 1.5e-4 --bf16
    --split '99,1,0'
)
MORE=()
MORE+=("--micro-batch-size" "$MICRO" --global-batch-size ${GLOBAL})
print ${MODEL[@]} ${MORE[@]} \\
    --tensor-model-parallel-size $TP \\
    --data-path 0.3 $DATA 0.7 data/web --save="out dir"
"""
QUOTED = """
LR=3e-4
SAVE=checkpoints/$LR
GPT_ARGS="
    --num-layers 24 \\
    --lr $LR \\
    --bf16 --split 949,50,1
"
print $GPT_ARGS \\
    --save $SAVE
"""
ONE_LINE = "print --lr 1e-4 --min-lr -1.0 --bf16 --data-path a b --save=x\n"


def passed_by_bash(script: str) -> dict[str, object]:
    """The words that bash passes to ``print``, as argparse would group them."""
    printed = subprocess.run(
        ["bash", "-c", 'print() { printf "%s\\0" "$@"; }\n' + script],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")[:-1]
    parser = argparse.ArgumentParser()
    for name in {word.partition("=")[0] for word in printed if word.startswith("--")}:
        parser.add_argument(name, nargs="*")
    found = vars(parser.parse_args(printed))
    return {
        name.replace("_", "-"): (tuple(v) if len(v) > 1 else v[0]) if v else True
        for name, v in found.items()
    }


@pytest.mark.parametrize("script", [ARRAYS, QUOTED, ONE_LINE], ids=["arrays", "quoted", "line"])
def test_options_are_those_that_bash_would_pass(script: str) -> None:
    found = {name.removeprefix("--"): value for name, value in options_of(script)}
    assert found == passed_by_bash(script)


def test_what_the_script_does_not_set_stays_as_it_is() -> None:
    script = (
        "A=$A\nB=$(date)\nrun --save $OUT --load ${A} --lr $((1/0)) --bf16 $OTHER_ARGS | tee x\n"
    )
    found = dict(options_of(script))
    assert found == {"--save": "$OUT", "--load": "$A", "--lr": "$((1/0))", "--bf16": True}
