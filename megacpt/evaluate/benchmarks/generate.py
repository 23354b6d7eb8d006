# SPDX-License-Identifier: Apache-2.0
"""Continue texts until they stop, on any layout, with the same result on every rank.

A draw depends on seed, number of the prompt and step alone, not on layouts or batches.

Shapes: N texts of a batch over all replicas, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from megatron.core import parallel_state

from megacpt.evaluate.benchmarks.decoders import Decoder, Logits
from megacpt.evaluate.benchmarks.text import Writing

Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True, kw_only=True)
class _Text:
    number: int
    """Of the prompt, among all that were asked."""
    ids: list[int]
    new: list[int] = field(default_factory=list)
    ended: bool = False


def continue_texts(
    prompts: Sequence[tuple[int, Sequence[int]]],
    *,
    writing: Writing,
    decoder: Decoder,
    decode: Decode,
    device: torch.device,
) -> list[list[int]]:
    """New tokens of one batch of numbered ``prompts``, which replicas share; a collective call."""
    texts = [_Text(number=number, ids=list(ids)) for number, ids in prompts]
    # A replica without a prompt takes part in the passes of the others.
    spare = _Text(number=-1, ids=list(texts[0].ids), ended=True)
    own = _own(texts) or [spare]
    for step in range(writing.max_new_tokens):
        ask = decoder.first if step == 0 else decoder.next
        logits = ask([text.ids for text in own])
        drawn = _drawn(logits, own=own, step=step, writing=writing)
        agreed = _agreed(drawn, texts=texts, device=device)
        for text, token in zip([*texts, spare], [*agreed, 0], strict=True):
            _append(text, token=token, writing=writing, decode=decode)
        if all(text.ended for text in texts):
            break
        own = _kept(own, decoder=decoder)
    return [text.new for text in texts]


def _own(texts: Sequence[_Text]) -> list[_Text]:
    rank = parallel_state.get_data_parallel_rank()
    return list(texts[rank :: parallel_state.get_data_parallel_world_size()])


def _kept(own: list[_Text], *, decoder: Decoder) -> list[_Text]:
    """Without those that have ended, once they are half; one stays for the passes of others."""
    going = [n for n, text in enumerate(own) if not text.ended] or [0]
    if 2 * len(going) > len(own):
        return own
    decoder.keep(going)
    return [own[n] for n in going]


def _drawn(logits: Logits, *, own: Sequence[_Text], step: int, writing: Writing) -> dict[int, int]:
    """Number of a text -> its next token, where this rank is the one that says it."""
    if logits.logits_RV is None or parallel_state.get_tensor_model_parallel_rank() != 0:
        return {}
    likeliest = logits.logits_RV.argmax(dim=-1).tolist()
    found = {}
    for row, n in enumerate(logits.texts_R):
        if not own[n].ended:
            number = own[n].number
            found[number] = likeliest[row]
            if writing.temperature > 0:
                draw = (writing.seed, number, step)
                found[number] = _sampled(
                    logits.logits_RV[row], temperature=writing.temperature, draw=draw
                )
    return found


def _sampled(logits_V: torch.Tensor, *, temperature: float, draw: tuple[int, int, int]) -> int:
    seed, number, step = draw
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) * 1_000_003 + step)
    shares_V = (logits_V.cpu().double() / temperature).softmax(dim=-1)
    return int(torch.multinomial(shares_V, 1, generator=generator))


def _agreed(drawn: dict[int, int], *, texts: Sequence[_Text], device: torch.device) -> list[int]:
    """The next token of each text, on every rank."""
    tokens_N = torch.tensor([drawn.get(text.number, 0) for text in texts], device=device)
    torch.distributed.all_reduce(tokens_N)
    found: list[int] = tokens_N.tolist()
    return found


def _append(text: _Text, *, token: int, writing: Writing, decode: Decode) -> None:
    """One that has ended grows with the others, as each pass takes a token of all."""
    text.ended = text.ended or token in writing.end_ids
    text.ids.append(token)
    if text.ended:
        return
    text.new.append(token)
    text.ended = _has_stop(text.new, stops=writing.stops, decode=decode)


def _has_stop(new: Sequence[int], *, stops: Sequence[str], decode: Decode) -> bool:
    """A stop that the last token completes has at most one token a byte."""
    longest = max((len(stop.encode()) for stop in stops), default=0)
    tail = decode(new[-longest - 1 :]) if longest else ""
    return any(stop in tail for stop in stops)
