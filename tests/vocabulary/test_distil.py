# SPDX-License-Identifier: Apache-2.0
"""Learned rows beside transformers alone: the first step, and hidden states on other text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from megacpt.families.weights import Role
from megacpt.tokenizer import load_tokenizer
from megacpt.vocabulary import distil as distil_module
from megacpt.vocabulary.add import Choices, add_to_vocabulary
from megacpt.vocabulary.bpe import Bpe
from megacpt.vocabulary.distil import STEP_SIZE, Distillation, TextPiece, distil, find_pieces
from megacpt.vocabulary.growth import Growth
from megacpt.vocabulary.rows import RowInit
from megacpt.vocabulary.wanted import Wanted
from tests.vocabulary.small_models import LEARNED, OTHER, write_model

WANTED = Wanted(path=Path("words.txt"), words=(" object", " class", " value", " module"))


def pieces_of(folder: Path) -> tuple[Growth, list[TextPiece]]:
    growth = Growth(Bpe(load_tokenizer(folder)))
    growth.take(WANTED)
    new = Tokenizer.from_str(json.dumps(growth.content()))
    found = find_pieces(
        LEARNED, growth=growth, encode=lambda text: new.encode(text).ids, start=(0,)
    )
    return growth, found


def test_pieces_say_the_same_in_new_and_in_old_tokens(tmp_path: Path) -> None:
    write_model(tmp_path)
    growth, pieces = pieces_of(tmp_path)
    old = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    documents = [spelled(old.encode(text).ids) for text in LEARNED]
    assert {token.id for token in growth.tokens} <= {n for piece in pieces for n in piece.ids}
    for piece in pieces:
        new_at_ends = [piece.old[: end + 1] for end in piece.ends]
        for place, before in enumerate(new_at_ends):
            parts = [part for n in piece.ids[: place + 1] for part in growth.parts(n)]
            assert list(before) == parts
        assert piece.ids[0] == piece.old[0] == 0
        assert max(piece.ids[: piece.first]) < growth.first <= piece.ids[piece.first]
        assert any(spelled(piece.old[1:]) in document for document in documents)


def spelled(ids: Iterable[int]) -> str:
    return f" {' '.join(map(str, ids))} "


def test_each_token_is_taught_but_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    monkeypatch.setattr(distil_module, "PIECES_PER_TOKEN", 2)
    growth, few = pieces_of(tmp_path)
    monkeypatch.setattr(distil_module, "PIECES_PER_TOKEN", 1000)
    _, all_of_them = pieces_of(tmp_path)
    assert 2 <= len(few) <= 2 * len(growth.tokens) < len(all_of_them)


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_step_follows_the_gradient_of_transformers_graph(
    tied: bool, tmp_path: Path
) -> None:
    """Adam's first step is the rate times the gradient's sign; the loss is written out here, with
    rows as arguments of the model and not in its tables."""
    model = write_model(tmp_path, tie_word_embeddings=tied)
    growth, pieces = pieces_of(tmp_path)
    count = len(growth.tokens)
    draw = torch.Generator().manual_seed(2)
    roles = [Role.embedding] if tied else [Role.embedding, Role.head]
    rows = {role: 0.1 * torch.randn(count, 48, generator=draw) for role in roles}
    losses: list[float] = []
    settings = Distillation(steps=1, pieces_per_step=len(pieces[:1]))
    found = distil(
        tmp_path,
        rows=rows,
        first=growth.first,
        pieces=pieces[:1],
        settings=settings,
        told=lambda _, loss: losses.append(loss),
    )
    given = {role: row.clone().requires_grad_() for role, row in rows.items()}
    loss = written_out(model, piece=pieces[0], rows=given)
    loss.backward()
    assert losses == [pytest.approx(loss.item(), rel=1e-5)]
    scale = torch.cat([row.flatten() for row in rows.values()]).square().mean().sqrt()
    for role, row in rows.items():
        gradient = given[role].grad
        assert gradient is not None
        clear = gradient.abs() > 1e-5
        assert clear.any()
        moved = (found[role] - row)[clear] / (STEP_SIZE * scale)
        torch.testing.assert_close(moved, -gradient[clear].sign(), atol=1e-2, rtol=0)


def written_out(model: Any, *, piece: TextPiece, rows: dict[Role, torch.Tensor]) -> torch.Tensor:
    table = model.get_input_embeddings().weight.detach()
    head = model.get_output_embeddings().weight.detach()
    embedded = torch.cat([table, rows[Role.embedding]])[list(piece.ids)].unsqueeze(0)
    states = model.model(inputs_embeds=embedded).last_hidden_state[0]
    with torch.no_grad():
        old = model.model(torch.tensor([piece.old])).last_hidden_state[0][list(piece.ends)]
    grown_head = torch.cat([head, rows.get(Role.head, rows[Role.embedding])])
    logits = old @ grown_head.T
    targets = torch.tensor(piece.ids)
    said = functional.cross_entropy(logits[piece.first - 1 : -1], targets[piece.first :])
    apart = (states - old)[piece.first :].square().mean()
    return apart / old[piece.first :].square().mean() + said


def test_hidden_states_on_other_text_come_nearer(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    apart = {}
    for init in (RowInit.mean, RowInit.subtokens, RowInit.distil):
        output = tmp_path / init.value
        settings = Distillation(steps=40)
        choices = Choices(init=init, texts=LEARNED, distillation=settings)
        added = add_to_vocabulary(tmp_path / "model", wanted=WANTED, output=output, choices=choices)
        apart[init] = distance(tmp_path / "model", grown=output)
    assert apart[RowInit.distil] < 0.9 * apart[RowInit.subtokens]
    assert apart[RowInit.subtokens] < apart[RowInit.mean]
    assert added.num_pieces > 0
    assert not added.untaught


@torch.no_grad()
def distance(folder: Path, *, grown: Path) -> float:
    """Mean square of what new tokens change in the last hidden states, at ends of the same text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [AutoModelForCausalLM.from_pretrained(name) for name in (folder, grown)]
    tokenizers = [AutoTokenizer.from_pretrained(name) for name in (folder, grown)]
    total, count = 0.0, 0
    for text in OTHER[:6]:
        read = [t(text[:600], return_offsets_mapping=True) for t in tokenizers]
        ends = [{end: n for n, (_, end) in enumerate(r["offset_mapping"])} for r in read]
        both = sorted(ends[0].keys() & ends[1].keys())
        states = [
            model.model(torch.tensor([r["input_ids"]])).last_hidden_state[0]
            for model, r in zip(models, read, strict=True)
        ]
        old, new = (s[[e[end] for end in both]] for s, e in zip(states, ends, strict=True))
        total, count = total + float((old - new).square().sum()), count + old.numel()
    return total / count
