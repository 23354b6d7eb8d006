# SPDX-License-Identifier: Apache-2.0
"""megacpt vocabulary: a proposal, a model made with it, and what it says about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.tokenizer import load_tokenizer
from tests.vocabulary.small_models import OTHER, write_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and some text, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    write_texts(tmp_path / "text.jsonl", texts=OTHER)
    return tmp_path


def write_texts(path: Path, *, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def vocabulary(*words: str) -> int:
    return main(["vocabulary", "model", *words])


def test_from_a_proposal_to_a_model_that_needs_fewer_tokens(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vocabulary("--propose", "40", "--text", "text.jsonl", "--output", "tokens.txt") == 0
    shown = capsys.readouterr().out
    assert "Wrote 40 merges to tokens.txt; these save most tokens:" in shown
    assert "every 10th document" in shown
    assert "Next: megacpt vocabulary model --add tokens.txt --output model-grown" in shown
    assert vocabulary("--add", "tokens.txt", "--output", "model-grown") == 0
    shown = capsys.readouterr().out
    assert "Wrote model-grown: 40 new tokens, ids 400 to 439; vocab_size 400 -> 440" in shown
    old, new = (
        load_tokenizer(folder).encode(OTHER[9], special=False).size
        for folder in ("model", "model-grown")
    )
    # The tenth document is what was measured.
    words = len(OTHER[9].split())
    assert new < old
    before = {"a word": words, "a byte": len(OTHER[9].encode())}
    assert (
        main(["vocabulary", "model", "--propose", "40", "--text", "text.jsonl", "--output", "t"])
        == 0
    )
    shown = capsys.readouterr().out
    for name, count in before.items():
        line = next(line for line in shown.splitlines() if f"tokens {name}" in line)
        assert line.split()[-3:] == [
            f"{old / count:.3f}",
            f"{new / count:.3f}",
            f"{new / old - 1:+.1%}",
        ]


def test_held_out_files_are_measured_and_not_learned_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(here / "held.jsonl", texts=["zyzzyva zyzzyva zyzzyva"])
    text = ("--text", "text.jsonl", "--heldout", "held.jsonl")
    assert vocabulary("--propose", "30", *text, "--output", "tokens.txt") == 0
    assert "held-out text " in capsys.readouterr().out
    assert "zy" not in (here / "tokens.txt").read_text()
    write_texts(here / "one.jsonl", texts=OTHER[:1])
    assert vocabulary("--propose", "3", "--text", "one.jsonl", "--output", "tokens.txt") == 0
    assert "the same text (no --heldout)" in capsys.readouterr().out


def test_what_became_of_the_words_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "model" / "tokenizer.model").write_text("SentencePiece")
    (here / "words.txt").write_text(" coroutine\n the\n<|case|>\n zyzzyva\n")
    assert (
        vocabulary(
            *("--add", "words.txt", "--output", "grown", "--init", "distil", "--steps", "1"),
            *("--text", "text.jsonl"),
        )
        == 0
    )
    shown = capsys.readouterr()
    assert "of them are steps: BPE joins two tokens at a time" in shown.out
    assert "'<|case|>': no single word, so found in the text before all words" in shown.out
    assert "' the': in the vocabulary already" in shown.out
    assert " pieces of text" in shown.out
    assert "' zyzzyva': not in the text" in shown.out
    assert "left out, as they hold the old vocabulary: tokenizer.model" in shown.out
    assert "step     1  loss " in shown.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--output", "x"), "needs either --propose N, to find tokens in a text, or --add FILE"),
        (("--output", "x", "--add", "f", "--propose", "3"), "needs either --propose N"),
        (("--output", "x", "--propose", "3"), "--propose learns from a text; name its files"),
        (("--output", "x", "--add", "f", "--init", "distil"), "--init distil learns from a text"),
        (("--output", "x", "--propose", "0", "--text", "text.jsonl"), "--propose 0 is below 1"),
        (("--output", "x", "--add", "f", "--steps", "0"), "--steps 0 is below 1"),
        (("--output", "x", "--propose", "3", "--text", "short.jsonl"), "--text has no two tokens"),
        (("--output", "x", "--propose", "3", "--text", "bad.jsonl"), "bad.jsonl:2: must "),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, ...], problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(here / "short.jsonl", texts=["ab"])
    (here / "bad.jsonl").write_text('{"text": "a"}\n[]\n')
    assert vocabulary(*words) == 2
    assert problem in capsys.readouterr().err
    assert not (here / "x").exists()
