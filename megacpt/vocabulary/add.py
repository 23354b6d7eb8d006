# SPDX-License-Identifier: Apache-2.0
"""A model's folder with more tokens, as a new folder: written aside, checked, renamed.

Only the tables that have a row a token change, and of these only what is new; all else is copied
byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import torch

from megacpt.convert.carried import carry_over
from megacpt.convert.described import TOKENIZER, write_json
from megacpt.errors import ModelError
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nested import text_of
from megacpt.families.weights import Role
from megacpt.files import empty_aside, publish, require_new, write_text
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.auto_tokenizer import load_checked
from megacpt.tokenizer.folder import ADDED, DECLARED, read_json
from megacpt.tokenizer.load import FILE
from megacpt.vocabulary.bpe import Bpe
from megacpt.vocabulary.distil import Distillation, StepLoss, TextPiece, distil, find_pieces
from megacpt.vocabulary.growth import Growth, added_token
from megacpt.vocabulary.rows import RowInit, first_rows
from megacpt.vocabulary.tables import ModelTables
from megacpt.vocabulary.wanted import Wanted

OTHER_FORMS = ("*.model", "*.tiktoken", "tekken.json")
"""Of the same tokenizer: they cannot take the new tokens, and would contradict the folder."""
VOCAB, MERGES = "vocab.json", "merges.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How new rows begin."""

    init: RowInit = RowInit.subtokens
    seed: int = 0
    texts: Iterable[str] = ()
    """What distillation reads."""
    distillation: Distillation = field(default_factory=Distillation)
    told: StepLoss = lambda step, loss: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of the wanted tokens."""

    growth: Growth
    vocab_before: int
    vocab_after: int
    left_out: tuple[str, ...]
    """Files of the model that the new folder does not have."""
    num_pieces: int
    """Of text, that the rows were learned from."""
    untaught: tuple[str, ...]
    """Tokens that were in none of them."""


def add_to_vocabulary(source: Path, *, wanted: Wanted, output: Path, choices: Choices) -> Added:
    """Write ``output``, which must not exist; ``source`` is only read."""
    require_new(output)
    tokenizer = load_checked(source)
    tables = ModelTables.read(source, tokenizer=tokenizer)
    if choices.init is RowInit.distil and text_of(HfConfig.read(source)) is not None:
        raise ModelError(
            f"{source} is a model of several parts, which --init distil does not load; use "
            "--init subtokens."
        )
    growth = Growth(Bpe(tokenizer))
    growth.take(wanted)
    tables.require_room(output, count=len(growth.tokens))
    with empty_aside(output) as aside:
        carry_over(source, folder=aside)
        left_out = _write_tokenizer(aside, growth=growth)
        pieces = _pieces(load_checked(aside), growth=growth, choices=choices)
        rows = _rows(tables, growth=growth, choices=choices, pieces=pieces)
        tables.write(aside, rows=rows, first=growth.first)
        publish(aside, folder=output)
    taught = {number for piece in pieces for number in piece.ids}
    untaught = [t for t in growth.tokens if pieces and not t.is_step and t.id not in taught]
    return Added(
        growth=growth,
        vocab_before=tables.architecture.vocab_size,
        vocab_after=tables.size(first=growth.first, count=len(growth.tokens)),
        left_out=tuple(left_out),
        num_pieces=len(pieces),
        untaught=tuple(growth.bpe.text(token.parts) for token in untaught),
    )


def _write_tokenizer(folder: Path, *, growth: Growth) -> list[str]:
    """Bring the files that say the tokenizer up to date; what of them is removed."""
    content = growth.content()
    write_json(folder / FILE, content=content)
    model = content["model"]
    if (folder / VOCAB).exists():
        write_json(folder / VOCAB, content=model["vocab"])
    if (folder / MERGES).exists():
        merges = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
        write_text(folder / MERGES, text="\n".join(["#version: 0.2", *merges, ""]))
    beside = [token for token in growth.tokens if not token.is_merged]
    config, added = read_json(folder / TOKENIZER), read_json(folder / ADDED)
    if beside and DECLARED in config:
        config[DECLARED] |= {str(token.id): added_token(token) for token in beside}
        write_json(folder / TOKENIZER, content=config)
    if beside and added:
        added |= {token.string: token.id for token in beside}
        write_json(folder / ADDED, content=added)
    other = [p for p in folder.iterdir() if any(fnmatch(p.name, name) for name in OTHER_FORMS)]
    for path in other:
        path.unlink()
    return sorted(path.name for path in other)


def _pieces(new: Tokenizer, *, growth: Growth, choices: Choices) -> list[TextPiece]:
    """The text to learn from, as ``new`` cuts it."""
    if choices.init is not RowInit.distil:
        return []
    return find_pieces(
        choices.texts,
        growth=growth,
        encode=lambda text: new.encode(text, special=False).tolist(),
        start=tuple(new.encode("").tolist()),
    )


def _rows(
    tables: ModelTables, *, growth: Growth, choices: Choices, pieces: list[TextPiece]
) -> dict[Role, torch.Tensor]:
    rows = {
        role: first_rows(
            table,
            parts=[token.parts for token in growth.tokens],
            num_trained=growth.first,
            init=choices.init,
            seed=choices.seed,
        )
        for role, table in tables.by_role.items()
    }
    if choices.init is not RowInit.distil:
        return rows
    return distil(
        tables.folder,
        rows=rows,
        first=growth.first,
        pieces=pieces,
        settings=choices.distillation,
        told=choices.told,
    )
