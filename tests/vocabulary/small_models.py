# SPDX-License-Identifier: Apache-2.0
"""Small BPE tokenizers of the kinds that models have, trained by the tokenizers library, and random
models with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

NAMES = sorted(topics)
LEARNED = [topics[name] for name in NAMES[:12]]
"""What they are trained on."""
OTHER = [topics[name] for name in NAMES[12:24]]
"""A domain: the same language, other words."""
END = "<|endoftext|>"
SIZE = 400
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Cuts as Llama 3 does."""


def trained(
    pre_tokenizer: Any, *, size: int = SIZE, special: tuple[str, ...] = (END,)
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    return trained(pre.ByteLevel(add_prefix_space=False))


def digits() -> Tokenizer:
    """As SmolLM2's."""
    parts = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    return trained(pre.Sequence(parts))


def added_behind() -> Tokenizer:
    """Whole words first, as Llama 3's, and as Qwen's with added tokens behind the vocabulary."""
    cut = [pre.Split(Regex(WORDS), "isolated"), pre.ByteLevel(False, use_regex=False)]
    made = trained(pre.Sequence(cut), special=())
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(END), AddedToken("<|user|>")])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As Llama 2's: blanks are marks, nothing cuts words, unknown characters are bytes."""
    special = ("<unk>", "<s>", END, *(f"<0x{n:02X}>" for n in range(256)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE + 256, special_tokens=list(special), show_progress=False
    )
    # SentencePiece leaves line ends to the bytes.
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in LEARNED], trainer)
    stated = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in stated["merges"]]
    model = models.BPE(
        stated["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(text) for text in ("<unk>", "<s>", END)])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "digits": digits,
    "added-behind": added_behind,
    "sentence-piece": sentence_piece,
}


def write_tokenizer(folder: Path, *, kind: str = "byte-level") -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = KINDS[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def write_model(folder: Path, *, kind: str = "byte-level", padding: int = 0, **changes: Any) -> Any:
    """A random Llama with it, and ``padding`` rows that no token has."""
    from tests.llama_cases import write_llama

    tokenizer = write_tokenizer(folder, kind=kind)
    end = tokenizer.token_to_id(END)
    size = tokenizer.get_vocab_size() + padding
    ids = {"bos_token_id": end, "eos_token_id": end}
    return write_llama(folder, vocab_size=size, **ids, **changes)
