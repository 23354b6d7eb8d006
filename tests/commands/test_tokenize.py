# SPDX-License-Identifier: Apache-2.0
"""megacpt tokenize: formats, standard input, tasks, packing, and what it says about them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

from megacpt.cli import main
from megacpt.commands.tokenize import account
from megacpt.shards.manifest import BackendRecord, verify
from tests.corpus.cases import make, write_jsonl

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some text of several kinds, which is the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"document {n}"} for n in range(20)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "in" / "b.txt").write_text("a whole file")
    return tmp_path


def tokenize(*words: str) -> int:
    return main(["tokenize", *words, "--tokenizer", str(TINY), "--workers", "1"])


def test_a_folder_and_what_was_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in" / "c.jsonl").write_text('{"text": ""}\n{\n{"text": 3}\n')
    assert tokenize("in", "--output", "out/law", "--on-error", "quarantine") == 0
    shown = capsys.readouterr().out
    assert "Wrote 21 documents, " in shown
    assert "2 bad lines left out (1 broken_json, 1 no_text); they are in " in shown
    assert "out/law.quarantine.jsonl" in shown
    assert "1 empty documents left out" in shown
    assert "by fastokens " in shown
    assert "equal to tokenizers on " in shown
    assert verify("out/law").documents == 21


def test_standard_input_is_a_file_like_any_other(here: Path) -> None:
    command = [sys.executable, "-m", "megacpt", "tokenize", "-", "--tokenizer", str(TINY)]
    text = (here / "in" / "a.jsonl").read_bytes()
    subprocess.run([*command, "--output", "piped"], input=text, check=True, capture_output=True)
    assert tokenize("in/a.jsonl", "--output", "law") == 0
    assert Path("piped.bin").read_bytes() == Path("law.bin").read_bytes()
    assert not Path("piped.pieces").exists()


def test_tasks_and_merge_say_what_is_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("0/2", "1/2"):
        assert tokenize("in/a.jsonl", "--output", "my law", "--task", task) == 0
        shown = capsys.readouterr().out
        assert f"Task {task} is done: its pieces are in my law.pieces" in shown
        assert "megacpt tokenize --merge --output 'my law'" in shown
    assert main(["tokenize", "--merge", "--output", "my law"]) == 0
    assert "Wrote 20 documents, " in capsys.readouterr().out
    assert main(["tokenize", "--merge", "--output", "my law"]) == 2
    assert "plan.json does not exist" in capsys.readouterr().err


def test_packing_may_be_written_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tokenize("in/a.jsonl", "--output", "law", "--pack", "32") == 0
    assert "for data.packing=best_fit" in capsys.readouterr().out
    assert list(here.glob("law.pack32*"))


def test_without_eos_and_special(here: Path) -> None:
    assert tokenize("in/b.txt", "--output", "law", "--no-eos", "--no-special") == 0
    manifest = verify("law")
    assert (manifest.tokens, manifest.append_eos, manifest.special) == (12, False, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "law"], "megacpt tokenize needs files and --tokenizer; only --merge does"),
        (["in", "--output", "law", "--task", "one"], "task=one must be K/N, as in 0/4"),
        (["in", "--output", "law", "--task", "4/4"], "task=4/4 must be K/N with K from 0 to N-1"),
        (["in", "--output", "law", "--max-document-bytes", "0"], "max_document_bytes=0 must be"),
        (["in", "--output", "law", "--on-error", "maybe"], "invalid choice: 'maybe'"),
    ],
)
def test_wrong_words_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    try:
        code = tokenize(*words)
    except SystemExit as stopped:
        code = int(str(stopped.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["in"]


def test_the_line_of_a_terminal_is_removed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert tokenize("in", "--output", "law") == 0
    assert "MB/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_only_what_happened_is_told(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", ["ab", "c"])], tmp_path / "out")
    plain = BackendRecord(name="tokenizers 1.0", documents=2)
    lines = account(replace(manifest, backends=(plain,)), output="out", elapsed_s=0.5)
    assert lines == [
        "Wrote 2 documents, 5 tokens of 29 bytes in 0.5 s (58 bytes/s):",
        "  out.bin, out.idx, out.json",
        "  by tokenizers 1.0",
    ]


def test_all_that_may_happen_is_told(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", ["ab", "c"])], tmp_path / "out")
    full = replace(
        manifest,
        errors={"no_key": 2, "oversized": 1},
        on_error="quarantine",
        empty_documents=4,
        long_documents=1,
    )
    told = "\n".join(account(full, output="out", elapsed_s=1.0))
    assert "3 bad lines left out (2 no_key, 1 oversized); they are in out.quarantine.jsonl" in told
    assert "4 empty documents left out" in told
    assert "1 documents have more than 100,000 tokens each" in told
    skipped = "\n".join(account(replace(full, on_error="skip"), output="out", elapsed_s=1.0))
    assert "quarantine" not in skipped


def test_the_next_command_names_a_model_s_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer.model beside tokenizer.json is that model's; one that lies alone is no model."""
    (here / "c.txt").write_text("ab ba bab\n" * 50)
    options = {"input": "c.txt", "model_prefix": "tokenizer", "vocab_size": 9, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**options)
    model = shutil.copytree(TINY, here / "model")
    shutil.copy("tokenizer.model", model)
    for tokenizer, named in (
        ("model/tokenizer.model", "model.path=model "),
        ("tokenizer.model", ""),
    ):
        words = ["in/a.jsonl", "--tokenizer", tokenizer, "--output", "out/law", "--workers", "1"]
        assert main(["tokenize", *words]) == 0
        said = capsys.readouterr()
        following = said.out.splitlines()[-1].removeprefix("Next: ")
        assert following == f"megacpt plan {named}data.sources.law.prefix=out/law"
        assert ("lies beside tokenizer.json" in said.err) == bool(named)
        if named:
            run = "data.sequence_length=8 data.global_batch_size=1 schedule.steps=2 run_dir=r"
            rest = "schedule.warmup_steps=1 optim.lr_peak=1e-3 cluster.device=cpu model.init=random"
            given = [*following.split()[2:], *run.split(), *rest.split()]
            assert main(["plan", *given]) == 0


def test_conversations(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"prompt": "a", "completion": "b" * n} for n in (1, 40)] + [{"text": "c"}]
    (here / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    chat = ("chat.jsonl", "--chat", "--chat-template", "plain", "--output", "out/chat")
    assert tokenize(*chat) == 2
    assert "chat.jsonl:3: holds no conversation" in capsys.readouterr().err
    assert tokenize(*chat, "--on-error", "quarantine", "--pack", "32") == 2
    assert "chat.jsonl:2: has 60 tokens, and 33 are allowed" in capsys.readouterr().err
    options = ("--on-error", "quarantine", "--pack", "32", "--on-long", "truncate")
    assert tokenize(*chat, *options) == 0
    shown = capsys.readouterr().out
    assert "Wrote 2 conversations, " in shown
    assert "1 bad lines left out (1 no_conversation); they are in " in shown
    assert "1 conversations were cut off at the end" in shown
    assert "out/chat.mask" in shown
    manifest = verify("out/chat")
    assert (manifest.documents, manifest.truncated_documents) == (2, 1)
    assert tokenize(*chat, "--on-error", "skip", "--max-tokens", "33", "--on-long", "skip") == 0
    assert verify("out/chat").errors == {"no_conversation": 1, "too_many_tokens": 1}


def test_lines_that_hold_no_conversation(here: Path) -> None:
    good = b'{"prompt": "a", "completion": "b"}'
    (here / "chat.jsonl").write_bytes(b"\n".join([good, b"{", b"[1]", b'{"text": "\xff"}', b"{}"]))
    chat = ("chat.jsonl", "--chat", "--chat-template", "plain", "--output", "out/chat")
    assert tokenize(*chat, "--on-error", "quarantine") == 0
    lines = Path("out/chat.quarantine.jsonl").read_text().splitlines()
    assert [(found["line"], found["kind"]) for found in map(json.loads, lines)] == [
        (2, "broken_json"),
        (3, "no_object"),
        (4, "invalid_utf8"),
        (5, "no_conversation"),
    ]


def test_conversations_through_a_pipe(here: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"prompt": "a", "completion": "b"}\n')
    os.close(writing)
    chat = ("--format", "jsonl", "--chat", "--chat-template", "plain", "--output", "chat")
    assert tokenize(f"/dev/fd/{reading}", *chat) == 0
    os.close(reading)
    assert verify("chat").documents == 1
    assert not Path("chat.pieces").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--on-long", "skip"), "--on-long is for conversations; add --chat"),
        (("--chat-template", "plain"), "--chat-template is for conversations"),
        (("--chat", "--no-eos"), "--no-eos does not go with --chat"),
        (("--chat", "--task", "0/2"), "--task does not go with --chat"),
        (("--chat", "--key", "talk"), "--key does not go with --chat"),
        (("--chat", "--tokenizer-settings", "{}"), "--tokenizer-settings does not go with --chat"),
        (
            ("--chat", "--chat-template", "plain", "--max-document-bytes", "0"),
            "max_document_bytes=0 must be at least 1",
        ),
        (
            ("--chat", "--chat-template", "plain", "--max-tokens", "-5", "--on-long", "truncate"),
            "max_tokens=-5 must be at least 2",
        ),
        (("--chat",), "has no chat template"),
    ],
)
def test_options_of_conversations(
    words: tuple[str, ...], problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tokenize("in/a.jsonl", "--output", "out/law", *words) == 2
    assert problem in capsys.readouterr().err
