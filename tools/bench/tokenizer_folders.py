# SPDX-License-Identifier: Apache-2.0
"""Compare the ids of tokenizer folders of every kind with those of transformers' AutoTokenizer.

    python tools/bench/tokenizer_folders.py [--texts 2000] [--transformers-4 OTHER/bin/python]

Each folder is made here with a small vocabulary, some are also read and saved again by transformers
5 (this Python's) and 4 (that of OTHER). A folder is right where each text has AutoTokenizer's ids,
or none where that fails, by ``tokenizers`` and by fastokens; or where megacpt refuses it by name.
The exit code is 1 where one is not.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from megacpt.errors import ModelError
from megacpt.tokenizer.auto_tokenizer import load_checked
from megacpt.tokenizer.backend import EncodeError, encode_each
from megacpt.tokenizer.fast import load_fast
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

CORPUS = [
    "The law of the land, don't: 1234 users in 2024 call it\n\n  twice. " * 20,
    "Größe naïve 日本語 Ελληνικά кириллица x_y = f(a)[0];\n\tdef g(): return 3.14 " * 20,
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"}
FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
NAMES = ("<tool>", "</tool>", "<pad>", "<im>", "<im>user", "user", "USE", "<S>", "[CLS]", "<r7>")
"""Texts of added tokens, in folders that have them and in others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The files of a folder."""

    tokenizer: Tokenizer
    files: dict[str, Any] = field(default_factory=lambda: {"tokenizer_config.json": dict(FAST)})
    change: Callable[[dict[str, Any]], object] = lambda _: None
    """Changes tokenizer.json."""
    resaved: bool = False
    """Whether both transformers save it again, too."""
    oracle: Callable[[dict[str, Any]], object] | None = None
    """Changes the tokenizer.json that AutoTokenizer reads."""

    def write(self, folder: Path, *, for_oracle: bool = False) -> Path:
        folder.mkdir(parents=True)
        content = json.loads(self.tokenizer.to_str())
        self.change(content)
        if for_oracle and self.oracle:
            self.oracle(content)
        for name, file in ({"tokenizer.json": content} | self.files).items():
            (folder / name).write_text(json.dumps(file, ensure_ascii=False))
        return folder


def byte_level(
    *steps: pre_tokenizers.PreTokenizer, added: Sequence[str | AddedToken] = ()
) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not steps)]
    )
    if not steps:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(["<e>", "<s>"])
    made.add_tokens(list(added))
    return made


def begins(made: Tokenizer, *, first: str = "<s>", last: str = "") -> Tokenizer:
    """With a template that adds tokens around each text."""
    tokens = [token for token in (first, last) if token]
    made.post_processor = processors.TemplateProcessing(
        single=" ".join([first, "$A", last]).strip(),
        pair="$A $B",
        special_tokens=[(token, made.token_to_id(token)) for token in tokens],
    )
    return made


def byte_fallback() -> Tokenizer:
    """As transformers 4 converts a Llama 2 model."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    spaced = [text.replace(" ", "▁") for text in CORPUS]
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(spaced, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    content = json.loads(trained.to_str())["model"]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, *content["vocab"]])}
    merges = [tuple(pair) for pair in content["merges"]]
    made = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return begins(made)


def unigram(*, unknown: bool) -> Tokenizer:
    vocabulary = [("<unk>", 0.0)] * unknown + [("▁", -2.0), ("▁the", -3.0)]
    vocabulary += [(letter, -4.0) for letter in "abcdefghilmnoprstuvw0123.,\n"]
    made = Tokenizer(models.Unigram(vocabulary, 0 if unknown else None, False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<e>"])
    return made


def words(kind: Any, *, unknown: str = "[UNK]", **options: Any) -> Tokenizer:
    found = sorted({word.strip(".,:;") for text in CORPUS for word in text.lower().split()})
    pieces = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    first = ["[UNK]", "[CLS]", "[SEP]"][unknown != "[UNK]" :]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([*first, *pieces, *found]))}
    made = Tokenizer(kind(vocabulary, unk_token=unknown, **options))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["<e>", "[CLS]", "[SEP]"])
    return begins(made, first="[CLS]", last="[SEP]")


def config(**changes: Any) -> dict[str, Any]:
    return {"tokenizer_config.json": FAST | changes}


def declared(made: Tokenizer, *names: str, more: int = 0, **flags: bool) -> dict[str, Any]:
    """As transformers 4 writes tokens into tokenizer_config.json."""
    first = made.get_vocab_size() + more
    tokens = {
        str(first + n): FLAGS | {"content": name, "special": True} | flags
        for n, name in enumerate(names)
    }
    known = {
        str(number): {
            "content": token.content,
            "special": token.special,
            **{name: getattr(token, name) for name in FLAGS},
        }
        for number, token in made.get_added_tokens_decoder().items()
    }
    return {"added_tokens_decoder": known | tokens}


def reserved() -> list[str | AddedToken]:
    """More than 64 tokens; the last one overlaps a special one, which is looked for first."""
    tokens: list[str | AddedToken] = [AddedToken(f"<r{n}>", special=True) for n in range(70)]
    return [*tokens, AddedToken("<im>", special=True), AddedToken("<im>user", normalized=True)]


def flagged(*, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    made = byte_level()
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_tokens(
        [
            AddedToken("<tool>", lstrip=True, special=True),
            AddedToken("</tool>", rstrip=True),
            AddedToken("user", single_word=True, normalized=True),
            AddedToken("<S>", normalized=True),
            AddedToken("<im>", normalized=False),
            AddedToken("  ", normalized=True),
        ]
    )
    return made


def folders() -> Iterator[tuple[str, Made]]:
    """All kinds, by name."""
    plain, split = byte_level(), pre_tokenizers.Split(Regex(SPLIT), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    yield "BPE, byte-level", Made(tokenizer=plain, resaved=True)
    yield "BPE, pattern and BOS", Made(tokenizer=begins(byte_level(split)), resaved=True)
    nfc = byte_level(split)
    nfc.normalizer = normalizers.NFC()
    qwen = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<e>", "unk_token": None}
    files = {"tokenizer_config.json": qwen, "config.json": {"model_type": "qwen2"}}
    yield "class Qwen2Tokenizer", Made(tokenizer=nfc, files=files, resaved=True)
    llama: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    llama |= {"eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    files = {"tokenizer_config.json": llama, "config.json": {"model_type": "llama"}}
    yield "class LlamaTokenizer", Made(tokenizer=byte_fallback(), files=files, resaved=True)
    files = config(eos_token="</s>")
    yield "BPE, byte fallback", Made(tokenizer=byte_fallback(), files=files, resaved=True)
    files = config(tokenizer_class="GPT2Tokenizer") | {"config.json": {"model_type": "llama"}}
    yield "class GPT2Tokenizer, digits", Made(tokenizer=byte_level(digits), files=files)
    yield "class GPT2Tokenizer", Made(tokenizer=plain, files=files, resaved=True)
    yield "Unigram", Made(tokenizer=unigram(unknown=True), resaved=True)
    yield "Unigram without unk", Made(tokenizer=unigram(unknown=False))
    yield "WordPiece", Made(tokenizer=words(models.WordPiece), resaved=True)
    yield "WordLevel", Made(tokenizer=words(models.WordLevel))
    yield "WordLevel without unk", Made(tokenizer=words(models.WordLevel, unknown="<none>"))
    yield "flags of added tokens", Made(tokenizer=flagged(), resaved=True)
    lower = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    yield "flags, with a normalizer", Made(tokenizer=flagged(normalizer=lower))
    yield "72 added, overlapping", Made(tokenizer=byte_level(added=reserved()), resaved=True)
    yield from beside_folders(plain)
    yield from odd_folders(plain)


def beside_folders(plain: Tokenizer) -> Iterator[tuple[str, Made]]:
    """Tokens that other files than tokenizer.json name."""
    both = declared(plain, "<tool>", "</tool>")
    yield "added_tokens_decoder", Made(tokenizer=plain, files=config(**both), resaved=True)
    other = declared(plain, "<im>", "USE", rstrip=True, normalized=True, special=False)
    yield "added_tokens_decoder, flags", Made(tokenizer=plain, files=config(**other))
    known = byte_level(added=["<tool>"])
    changed = declared(known)
    next(reversed(changed["added_tokens_decoder"].values())).update(lstrip=True, special=True)
    yield "added_tokens_decoder, changed", Made(tokenizer=known, files=config(**changed))
    first = plain.get_vocab_size()
    files = config() | {"added_tokens.json": {"</tool>": first + 1, "<tool>": first}}
    files |= {"special_tokens_map.json": {"additional_special_tokens": ["<tool>"]}}
    yield "added_tokens.json", Made(tokenizer=plain, files=files, resaved=True)
    names = {"eos_token": "<e>", "pad_token": {"content": "<pad>"} | FLAGS}
    files = config() | {"special_tokens_map.json": names | {"cls_token": "<im>"}}
    yield "special_tokens_map.json", Made(tokenizer=plain, files=files, resaved=True)
    yield "pad_token named only", Made(tokenizer=plain, files=config(pad_token="<pad>"))
    files = config(extra_special_tokens=["<tool>", "<im>"], pad_token="<pad>")
    yield "extra_special_tokens", Made(tokenizer=plain, files=files)
    files = config(extra_special_tokens={"image": "<im>"}, tool_token="<tool>")
    yield "tokens of the model", Made(tokenizer=plain, files=files)
    yield "eos in the vocabulary only", Made(tokenizer=plain, files=config(eos_token="user"))
    yield "split_special_tokens", Made(tokenizer=plain, files=config(split_special_tokens=True))
    yield "ids contradict", Made(tokenizer=plain, files=config(**declared(plain, "<tool>", more=9)))
    yield "eos of another", Made(tokenizer=plain, files=config(eos_token="</s>"))


def odd_folders(plain: Tokenizer) -> Iterator[tuple[str, Made]]:
    """Valid forms of tokenizer.json that are seldom seen."""

    def old(content: dict[str, Any]) -> None:
        merges = content["model"]["merges"]
        content["model"]["merges"] = [" ".join(pair) for pair in merges]

    def cut(content: dict[str, Any]) -> None:
        limit = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        content["truncation"] = limit

    yield "merges as tokenizers 0.19 wrote", Made(tokenizer=plain, change=old)
    yield "stored truncation", Made(tokenizer=plain, change=cut)
    yield "BOS and EOS", Made(tokenizer=begins(byte_level(), last="<e>"), resaved=True)
    yield (
        "dropout (AutoTokenizer: without)",
        Made(
            tokenizer=plain,
            change=lambda content: content["model"].update(dropout=0.3),
            oracle=lambda content: content["model"].update(dropout=None),
        ),
    )


def texts(count: int) -> list[str]:
    """Words, blanks, digits and tokens in any order, and lines of the corpus."""
    rng = random.Random(0)
    parts = [*NAMES, *" \n\t.,'-<>_", "  ", "   ", "the", " The", "law", "1234", "12", "don't"]
    parts += ["é", "e\u0301", "日本", "ﬁ", "LAW", "users", " user", "x_y", "\u00a0", "naïve", "▁"]
    parts += ["<e>", "<s>", "</s>", "👩\u200d💻"]
    found = ["", " ", *(f" {name} " for name in NAMES), *CORPUS]
    while len(found) < count:
        found.append("".join(rng.choices(parts, k=rng.randint(1, 12))))
    return found[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    name: str
    different: int = 0
    failing: int = 0
    refused: str = ""
    first: str = ""
    fast: bool = False


def compare(name: str, *, folder: Path, oracle: Path, found: Sequence[str]) -> Result:
    """One folder against AutoTokenizer, which reads ``oracle``."""
    from transformers import AutoTokenizer

    try:
        tokenizer = load_checked(folder)
    except ModelError as error:
        return Result(name=name, refused=str(error).replace(str(folder), "FOLDER"))
    auto = AutoTokenizer.from_pretrained(oracle, local_files_only=True)
    expected = [_ids(auto, text) for text in found]
    backend = tokenizer.backend
    assert isinstance(backend, HuggingFaceBackend)
    fast = load_fast(backend)
    wrong: set[int] = set()
    for encoder in (backend, fast):
        if encoder is not None:
            rows = encode_each(found, encoder=encoder, special=True)
            ids = [None if isinstance(row, EncodeError) else row.tolist() for row in rows]
            wrong |= {n for n, (a, b) in enumerate(zip(ids, expected, strict=True)) if a != b}
    return Result(
        name=name,
        different=len(wrong),
        failing=expected.count(None),
        first=repr(found[min(wrong)])[:60] if wrong else "",
        fast=fast is not None,
    )


def _ids(auto: Any, text: str) -> list[int] | None:
    try:
        ids: list[int] = auto(text)["input_ids"]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return None
    return ids


def compare_all(work: Path, *, count: int, transformers_4: Path | None) -> Iterator[Result]:
    found = texts(count)
    for number, (name, made) in enumerate(folders()):
        folder = made.write(work / f"{number}")
        oracle = made.write(work / f"{number}-oracle", for_oracle=True)
        yield compare(name, folder=folder, oracle=oracle, found=found)
        pythons = {"4": transformers_4, "5": Path(sys.executable)} if made.resaved else {}
        for version, python in pythons.items():
            if python is not None:
                again = resave(folder, python=python, to=work / f"{number}-{version}")
                label = f"{name}, saved by {version}"
                yield compare(label, folder=again, oracle=again, found=found)


RESAVE = """
import sys
sys.modules["torch"] = None
from transformers import AutoTokenizer
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


def resave(folder: Path, *, python: Path, to: Path) -> Path:
    command = [str(python), "-c", RESAVE, str(folder), str(to)]
    subprocess.run(command, check=True, capture_output=True)
    if (folder / "config.json").exists():
        shutil.copy(folder / "config.json", to)
    return to


def compare_files(work: Path, *, count: int) -> Iterator[Result]:
    """A SentencePiece model and a tiktoken file, against the libraries themselves."""
    found = [text for text in texts(count) if text]
    corpus = work / "corpus.txt"
    corpus.write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(work / "sp"),
        vocab_size=200,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    plain = sentencepiece.SentencePieceProcessor(model_file=str(work / "sp.model"))
    backend = load_checked(work / "sp.model").backend
    rows = backend.encode(found, special=False).rows()
    wrong = [t for t, row in zip(found, rows, strict=True) if row.tolist() != plain.encode(t)]
    first = repr(wrong[:1]) * bool(wrong)
    yield Result(name="SentencePiece file", different=len(wrong), first=first)
    ranks = {bytes([n]): n for n in range(256)} | {b"th": 256, b"the": 257, b"  ": 258}
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    (work / "t.tiktoken").write_bytes(b"".join(lines))
    special = {"<e>": 300, "<tool>": 301}
    settings = {"pattern": SPLIT, "special_tokens": special, "eos_token": "<e>"}
    tokenizer = load_checked(work / "t.tiktoken", settings=json.dumps(settings))
    encoding = tiktoken.Encoding("t", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)
    rows = tokenizer.backend.encode(found, special=False).rows()
    pairs = zip(found, rows, strict=True)
    wrong = [t for t, row in pairs if row.tolist() != encoding.encode(t, allowed_special="all")]
    yield Result(name="tiktoken file", different=len(wrong), first=repr(wrong[:1]) * bool(wrong))


def line(result: Result, *, count: int) -> str:
    if result.refused:
        return f"| {result.name} | refused | {result.refused[:110]} ... |"
    kept = f"{result.different} of {count} different {result.first}".strip()
    by = "fastokens, too" if result.fast else "tokenizers"
    failing = f"; {result.failing} fail in both" if result.failing else ""
    return f"| {result.name} | {kept} | {by}{failing} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--transformers-4", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    print("| folder | ids | |\n|---|---|---|")
    wrong = number = 0
    with tempfile.TemporaryDirectory() as name:
        work, count = Path(name), arguments.texts
        python = arguments.transformers_4
        for results in (
            compare_all(work, count=count, transformers_4=python),
            compare_files(work, count=count),
        ):
            for result in results:
                print(line(result, count=count), flush=True)
                number, wrong = number + 1, wrong + bool(result.different)
    print(f"\n{number} folders and files, {wrong} with other ids")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
