# SPDX-License-Identifier: Apache-2.0
"""The verb vocabulary: which tokens are worth adding, and a model with tokens added."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import model_path
from megacpt.errors import ConfigError

if TYPE_CHECKING:
    from megacpt.vocabulary.add import Added
    from megacpt.vocabulary.bpe import Bpe
    from megacpt.vocabulary.propose import Counted, Fertility, Proposal

INITS = ("subtokens", "mean", "distil")
STEPS = 100
TOLD_EVERY = 10
SHOWN = 5


def _vocabulary(arguments: argparse.Namespace) -> int:
    if (arguments.add is None) == (arguments.propose is None):
        raise ConfigError(
            "megacpt vocabulary needs either --propose N, to find tokens in a text, or --add FILE, "
            "to add them."
        )
    if not arguments.text and (arguments.propose is not None or arguments.init == "distil"):
        asked = "--propose" if arguments.add is None else "--init distil"
        raise ConfigError(f"{asked} learns from a text; name its files with --text FILE ...")
    return _propose(arguments) if arguments.add is None else _add(arguments)


def _propose(arguments: argparse.Namespace) -> int:
    from megacpt.files import write_text
    from megacpt.tokenizer.auto_tokenizer import load_checked
    from megacpt.vocabulary.bpe import Bpe
    from megacpt.vocabulary.growth import Growth
    from megacpt.vocabulary.propose import propose
    from megacpt.vocabulary.wanted import merges_text

    _at_least_one(arguments.propose, name="--propose")
    bpe = Bpe(load_checked(model_path(arguments.model, weights=False)))
    learned, measured, where = _counted(arguments, bpe=bpe)
    before, after = Growth(bpe), Growth(bpe)
    found = propose(learned.words, growth=after, count=arguments.propose)
    if not found:
        raise ConfigError(
            "--text has no two tokens side by side in a word twice that could be one; give more "
            "text."
        )
    title = f"{len(found)} merges for {arguments.model}"
    write_text(arguments.output, text=merges_text(title, lines=[p.line for p in found]))
    say(
        *_proposed(found, output=arguments.output),
        *_fertility(measured.fertility(before), after=measured.fertility(after), where=where),
        next_command=shlex.join(
            [
                *("megacpt", "vocabulary", arguments.model, "--add", shown(arguments.output)),
                *("--output", f"{Path(arguments.model).name}-grown"),
            ]
        ),
    )
    return 0


def _counted(arguments: argparse.Namespace, *, bpe: Bpe) -> tuple[Counted, Counted, str]:
    """What is learned from, what is measured, and what that is."""
    from megacpt.vocabulary.corpus import EVERY, learned_texts, measured_texts, read_texts
    from megacpt.vocabulary.propose import count_words

    names, key = arguments.text, arguments.key
    if arguments.heldout:
        learned = count_words(read_texts(names, key=key), bpe=bpe)
        measured = count_words(read_texts(arguments.heldout, key=key), bpe=bpe)
        return learned, measured, "held-out text"
    measured = count_words(measured_texts(names, key=key), bpe=bpe)
    if measured.num_words:
        learned = count_words(learned_texts(names, key=key), bpe=bpe)
        return learned, measured, f"every {EVERY}th document"
    learned = count_words(read_texts(names, key=key), bpe=bpe)
    return learned, learned, "the same text (no --heldout)"


def _proposed(found: list[Proposal], *, output: Path) -> list[str]:
    first = ", ".join(f"{p.text!r} {p.saved:,}" for p in found[:SHOWN])
    return [
        f"Wrote {len(found):,} merges to {shown(output)}; these save most tokens:",
        f"  {first}",
    ]


def _fertility(before: Fertility, *, after: Fertility, where: str) -> list[str]:
    rows = {"tokens a word": "per_word", "tokens a byte": "per_byte"}
    lines = [f"{where:<32}{'before':>9}{'after':>9}{'change':>9}"]
    for name, field in rows.items():
        old, new = getattr(before, field), getattr(after, field)
        lines.append(f"  {name:<30}{old:>9.3f}{new:>9.3f}{new / old - 1:>+9.1%}")
    return lines


def _add(arguments: argparse.Namespace) -> int:
    from megacpt.vocabulary.add import Choices, add_to_vocabulary
    from megacpt.vocabulary.corpus import read_texts
    from megacpt.vocabulary.distil import Distillation
    from megacpt.vocabulary.rows import RowInit
    from megacpt.vocabulary.wanted import read_wanted

    _at_least_one(arguments.steps, name="--steps")
    wanted = read_wanted(arguments.add)
    added = add_to_vocabulary(
        model_path(arguments.model, weights=True),
        wanted=wanted,
        output=arguments.output,
        choices=Choices(
            init=RowInit(arguments.init),
            seed=arguments.seed,
            texts=read_texts(arguments.text or (), key=arguments.key),
            distillation=Distillation(steps=arguments.steps, seed=arguments.seed),
            told=_tell,
        ),
    )
    output = shown(arguments.output)
    say(
        *account(added, output=output),
        next_command=shlex.join(
            ["megacpt", "tokenize", "YOUR.jsonl", "--tokenizer", output, "--output", "data/yours"]
        ),
    )
    return 0


def account(added: Added, *, output: str) -> list[str]:
    """What was made of the wanted tokens."""
    tokens = added.growth.tokens
    beside = [token.string for token in tokens if not token.is_merged]
    steps = sum(token.is_step for token in tokens)
    lines = [
        f"Wrote {output}: {len(tokens):,} new tokens, ids {tokens[0].id:,} to {tokens[-1].id:,}; "
        f"vocab_size {added.vocab_before:,} -> {added.vocab_after:,}"
    ]
    if steps:
        lines.append(f"  {steps:,} of them are steps: BPE joins two tokens at a time")
    if beside:
        lines.append(f"  {_some(beside)}: no single word, so found in the text before all words")
    if added.growth.known:
        lines.append(f"  {_some(added.growth.known)}: in the vocabulary already")
    if added.num_pieces:
        lines.append(f"  rows learned from {added.num_pieces:,} pieces of text")
    if added.untaught:
        lines.append(f"  {_some(list(added.untaught))}: not in the text, the mean of their parts")
    if added.left_out:
        lines.append(f"  left out, as they hold the old vocabulary: {', '.join(added.left_out)}")
    return lines


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(map(repr, texts[:SHOWN])) + more


def _tell(step: int, *, loss: float) -> None:
    if step == 1 or step % TOLD_EVERY == 0:
        print(f"step {step:>5}  loss {loss:.4f}", file=sys.stderr, flush=True)


def _at_least_one(value: int, *, name: str) -> None:
    if value < 1:
        raise ConfigError(f"{name} {value} is below 1; use 1 or more.")


def _vocabulary_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="Hugging Face folder, or id on the hub")
    parser.add_argument(
        "--propose", type=int, metavar="N", help="find the N tokens that save most in --text"
    )
    parser.add_argument(
        "--add", type=Path, metavar="FILE", help="add these: a proposal, or a token on each line"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="the file of the proposal, or the new model's folder",
    )
    parser.add_argument(
        "--text", nargs="+", metavar="FILE", help="text to learn from, as for megacpt tokenize"
    )
    parser.add_argument(
        "--heldout", nargs="+", metavar="FILE", help="with --propose: text to measure instead"
    )
    parser.add_argument("--key", default="text", help="field or column of the text (default: text)")
    parser.add_argument(
        "--init",
        choices=INITS,
        default=INITS[0],
        help="rows of new tokens: the mean of their parts' (default), drawn about the mean of all, "
        "or learned from --text",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"of --init distil (default: {STEPS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")


VOCABULARY = Verb(
    name="vocabulary",
    summary="find tokens that shorten your text, and add them to a model",
    example="  megacpt vocabulary models/llama --propose 1000 --text law.jsonl \\\n"
    "      --output law.txt\n"
    "  megacpt vocabulary models/llama --add law.txt --output models/llama-law\n"
    "  megacpt vocabulary models/llama --add law.txt --init distil --text law.jsonl \\\n"
    "      --output models/llama-law",
    add_arguments=_vocabulary_arguments,
    run=_vocabulary,
)
