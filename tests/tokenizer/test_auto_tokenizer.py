# SPDX-License-Identifier: Apache-2.0
"""A folder that transformers reads in another way than its tokenizer.json says is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sentencepiece
import transformers

from megacpt.errors import ModelError
from megacpt.tokenizer import auto_tokenizer
from megacpt.tokenizer.auto_tokenizer import load_checked
from tools.bench.tokenizer_folders import Made, byte_fallback, byte_level, config, folders

MADE = dict(folders())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("class GPT2Tokenizer, digits", "GPT2Tokenizer"), ("class LlamaTokenizer", "LlamaTokenizer")],
)
def test_two_tokenizers_in_a_folder_are_told(name: str, kind: str, tmp_path: Path) -> None:
    folder = MADE[name].write(tmp_path / "f")
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(auto).__name__ == kind
    with pytest.raises(ModelError, match=f"has two tokenizers: AutoTokenizer .* builds {kind}"):
        load_checked(folder)
    # Either remedy that is named.
    own = load_checked(folder / "tokenizer.json")
    text = "1234 of  them"
    assert own.encode(text).tolist() == MADE[name].tokenizer.encode(text).ids
    (folder / "tokenizer_config.json").write_text(
        (folder / "tokenizer_config.json").read_text().replace(kind, "PreTrainedTokenizerFast")
    )
    assert load_checked(folder).fingerprint == own.fingerprint
    assert (
        transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
        == own.encode(text).tolist()
    )


def test_a_class_that_is_overruled_has_one_remedy(tmp_path: Path) -> None:
    """transformers 5.23 reads each Qwen2 with its own class, whatever the folder names."""
    files = config() | {"config.json": {"model_type": "qwen2"}}
    folder = Made(tokenizer=byte_level(), files=files).write(tmp_path / "f")
    with pytest.raises(ModelError, match=r"builds Qwen2Tokenizer.*\. Take the file at its word"):
        load_checked(folder)
    assert load_checked(folder / "tokenizer.json").notes == ()


def test_a_class_that_builds_the_same_is_taken(tmp_path: Path) -> None:
    files = config(tokenizer_class="GPT2Tokenizer", bos_token="<e>", unk_token="<e>")
    folder = Made(tokenizer=byte_level(), files=files).write(tmp_path / "f")
    assert load_checked(folder).notes == ()


def test_a_folder_that_auto_tokenizer_cannot_read_is_told(tmp_path: Path) -> None:
    own = {"AutoTokenizer": ["own.Slow", "own.Fast"]}
    files = config(auto_map=own, tokenizer_class="OwnTokenizer")
    folder = Made(tokenizer=byte_level(), files=files).write(tmp_path / "f")
    (note,) = load_checked(folder).notes
    assert note.startswith(f"AutoTokenizer cannot read {folder} (")
    assert note.endswith("): its tokenizer.json alone says the ids.")


def test_a_class_of_the_file_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Made(tokenizer=byte_level()).write(tmp_path / "f")
    monkeypatch.setattr(auto_tokenizer, "SCRIPT", "raise SystemExit('asked')")
    assert load_checked(folder).notes == ()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert "(asked)" in load_checked(folder).notes[0]


def test_dropout_is_not_applied_and_told(tmp_path: Path) -> None:
    made = Made(tokenizer=byte_level(), change=lambda content: content["model"].update(dropout=0.5))
    tokenizer = load_checked(made.write(tmp_path / "f"))
    assert "asks for dropout=0.5: encoded without" in tokenizer.notes[0]
    text = "The law of the land, don't"
    found = {tuple(tokenizer.encode(text).tolist()) for _ in range(30)}
    assert found == {tuple(made.tokenizer.encode(text).ids)}


def test_a_sentencepiece_model_beside_tokenizer_json_is_its_folder(tmp_path: Path) -> None:
    folder = Made(tokenizer=byte_fallback(), files=config(eos_token="</s>")).write(tmp_path / "f")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("river hill tree stone cloud\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=40, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    of_model, of_folder = load_checked(folder / "tokenizer.model"), load_checked(folder)
    assert of_model.fingerprint == of_folder.fingerprint
    assert of_model.folder == folder
    assert "lies beside tokenizer.json" in of_model.notes[0]
    alone = shutil.copy(folder / "tokenizer.model", tmp_path)
    assert load_checked(alone).backend.name.startswith("sentencepiece")
