# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that a GGUF file describes, as files of a Hugging Face folder.

Such a file holds tokens, their kinds and merges, and of the rule that cuts text into words only a
name, ``tokenizer.ggml.pre``. RULES has the names whose ids were compared with llama.cpp's. Any
other name is refused, and so is every key that could change ids and is not followed here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as InTurn

from megacpt.errors import ModelError
from megacpt.files import write_text

KEYS = "tokenizer.ggml."
FOLLOWED = {"model", "pre", "tokens", "token_type", "merges", "add_bos_token", "add_eos_token"}
WITHOUT_EFFECT = {"scores", "token_type_count", "suppress_tokens"}
"""On the ids of byte-level BPE."""
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
LOOKED_FOR = (UNKNOWN, CONTROL, USER_DEFINED)
"""Kinds of tokens that are found in a text before it is cut into words."""
NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Of special tokens: transformers' and GGUF's."""

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SIGNS, BLANKS = r" ?[^\s\p{L}\p{N}]+[\r\n", r"\s*[\r\n]+|\s+(?!\S)|\s+"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
QWEN2 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{BEFORE}\p{{L}}+|\p{{N}}|{SIGNS}]*|{BLANKS}"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}|{SIGNS}/]*|{BLANKS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    cut: tuple[PreTokenizer, ...]
    whole_words: bool = False
    """A word that is a token needs no merges."""
    bos: bool = False
    """Documents begin with it where the file does not say whether they do."""
    normalizer: Any = None


def _cut(*patterns: str) -> tuple[PreTokenizer, ...]:
    splits = (Split(Regex(pattern), behavior="isolated") for pattern in patterns)
    return (*splits, ByteLevel(add_prefix_space=False, use_regex=False))


GPT2 = ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS_APART = Rule(cut=(Digits(individual_digits=True), GPT2))
RULES = {
    "gpt-2": Rule(cut=(GPT2,)),
    "smollm": DIGITS_APART,
    "starcoder": DIGITS_APART,
    "refact": DIGITS_APART,
    "llama-bpe": Rule(cut=_cut(LLAMA3), whole_words=True, bos=True),
    # Qwen's own tokenizer composes characters first, which no key of the file can say.
    "qwen2": Rule(cut=_cut(QWEN2), normalizer=normalizers.NFC()),
    "tekken": Rule(cut=_cut(TEKKEN), whole_words=True, bos=True),
    "default": Rule(cut=_cut(r"[\p{P}$+<=>^~|]+", WORDS, r"\p{N}+", "[0-9]{3}")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    tokenizer: Tokenizer
    special: Mapping[str, str]
    """bos, eos, unk and pad, those that the file names."""
    chat_template: str | None

    def write(self, folder: Path, *, special: Mapping[str, str], model_max_length: int) -> None:
        """tokenizer.json and tokenizer_config.json; ``special`` goes before the file's own."""
        named = {**self.special, **special}
        settings: dict[str, Any] = {
            # Of transformers 4 and 5; the class that 5 itself would name is unknown to 4.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            "clean_up_tokenization_spaces": False,
            **{f"{name}_token": text for name, text in named.items()},
        }
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        write_text(folder / "tokenizer.json", text=self.tokenizer.to_str(pretty=True) + "\n")
        write_text(folder / "tokenizer_config.json", text=json.dumps(settings, indent=2) + "\n")


def read_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """Raises ModelError where the file says something of its tokenizer that is not followed."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    said = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    template = said.pop("tokenizer.chat_template", None)
    stated = {key.removeprefix(KEYS): value for key, value in said.items()}
    rule = _rule(path, stated=stated)
    tokenizer = Tokenizer(_model(path, stated=stated, rule=rule))
    special = _special(path, stated=stated)
    if rule.normalizer is not None:
        tokenizer.normalizer = rule.normalizer
    tokenizer.pre_tokenizer = InTurn(list(rule.cut)) if len(rule.cut) > 1 else rule.cut[0]
    tokenizer.post_processor = _frame(path, stated=stated, rule=rule, special=special)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(stated["tokens"], stated["token_type"], strict=True)
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind != USER_DEFINED)
            for token, kind in kinds
            if kind in LOOKED_FOR
        ]
    )
    return GgufTokenizer(tokenizer=tokenizer, special=special, chat_template=template)


def _rule(path: Path, *, stated: Mapping[str, Any]) -> Rule:
    """What the file's names stand for, if all that it says can be followed."""
    kind, name = stated.get("model"), stated.get("pre")
    if kind != "gpt2":
        raise _refused(path, key="model", value=kind, rule="only gpt2, byte-level BPE, is read")
    if name not in RULES:
        raise _refused(path, key="pre", value=name, rule=f"known are {', '.join(RULES)}")
    for key, value in stated.items():
        harmless = key in FOLLOWED | WITHOUT_EFFECT or key.endswith(("_token_id", "_token_ids"))
        if not harmless and value:
            raise _refused(path, key=key, value=value, rule="what it does to ids is not known")
    return RULES[name]


def _refused(path: Path, *, key: str, value: Any, rule: str) -> ModelError:
    return ModelError(
        f"{path} says {KEYS}{key}={textwrap.shorten(repr(value), 80)} of its tokenizer, but "
        f"{rule}; take the tokenizer from the Hugging Face folder that the file was made of."
    )


def _model(path: Path, *, stated: Mapping[str, Any], rule: Rule) -> models.BPE:
    try:
        tokens, kinds = stated["tokens"], stated["token_type"]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        if not len(vocabulary) == len(tokens) == len(kinds):
            raise ValueError(
                f"{len(tokens)} tokens, {len(vocabulary)} of them different, {len(kinds)} kinds"
            )
        merges = [tuple(merge.split(" ")) for merge in stated["merges"]]
        return models.BPE(vocabulary, merges, ignore_merges=rule.whole_words)
    # The library raises bare Exception for merges whose parts are no tokens.
    except Exception as error:
        raise ModelError(
            f"{path} holds no whole tokenizer ({type(error).__name__}: {error}); "
            "get the file again."
        ) from error


def _special(path: Path, *, stated: Mapping[str, Any]) -> dict[str, str]:
    """Their texts. transformers finds them in every text, so the file must say so, too."""
    found = {}
    for name, word in NAMES.items():
        key = f"{word}_token_id"
        number = stated.get(key)
        if number is None:
            continue
        if number >= len(stated["tokens"]):
            rule = f"it has {len(stated['tokens'])} tokens"
            raise _refused(path, key=key, value=number, rule=rule)
        if stated["token_type"][number] not in LOOKED_FOR:
            raise _refused(path, key=key, value=number, rule="its token_type is a part of words")
        found[name] = stated["tokens"][number]
    return found


def _frame(
    path: Path, *, stated: Mapping[str, Any], rule: Rule, special: Mapping[str, str]
) -> processors.TemplateProcessing:
    """What documents begin and end with."""
    asked = {
        "bos": stated.get("add_bos_token", rule.bos),
        "eos": stated.get("add_eos_token", False),
    }
    for name in (name for name, wanted in asked.items() if wanted and name not in special):
        key, value = f"add_{name}_token", stated.get(f"add_{name}_token")
        raise _refused(path, key=key, value=value, rule=f"{name}_token_id is not there")
    begin, end = ([special[name]] if wanted else [] for name, wanted in asked.items())
    ids = [(token, stated["tokens"].index(token)) for token in {*begin, *end}]
    return processors.TemplateProcessing(single=[*begin, "$A", *end], special_tokens=ids)
