# SPDX-License-Identifier: Apache-2.0
"""The sharded model as lm-eval sees a model: texts in, log likelihoods and texts out.

Texts become tokens as lm-eval's own ``hf`` model makes them, but for one: where a tokenizer puts a
first token (BOS) before a text, ``hf`` puts another before it in loglikelihood_rolling, and scores
the one after the other. Here it is there once, and is not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer

from megacpt.errors import DataError, ModelError
from megacpt.evaluate.benchmarks.answers import answered
from megacpt.evaluate.benchmarks.calls import Model
from megacpt.evaluate.benchmarks.progress import SILENT, Progress
from megacpt.evaluate.benchmarks.text import Score, Text, Writing, continued
from megacpt.evaluate.journal import AnswerJournal, key_of
from megacpt.tokenizer import Tokenizer

NEW_TOKENS = 256
"""Where a task does not say how many: lm-eval's own."""
TokenPair = tuple[tuple[str, str], list[int], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    prompt: tuple[int, ...]
    writing: Writing


class NativeLM(TemplateLM):  # type: ignore[misc]
    """Lives on the first rank."""

    def __init__(
        self,
        model: Model,
        *,
        tokenizer: Tokenizer,
        journal: AnswerJournal,
        progress: Progress = SILENT,
    ) -> None:
        super().__init__()
        self._model, self._journal, self._tokenizer = model, journal, tokenizer
        self._progress = progress
        first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if first is None:
            raise ModelError(
                f"the tokenizer of {tokenizer.folder} has neither a first token (BOS) nor one of "
                "the end, after which benchmarks begin; set eos_token in tokenizer_config.json."
            )
        self._first = first
        self._first_text = tokenizer.decode([first])
        # It alone knows which tokens are special and how a chat is written.
        self._library = AutoTokenizer.from_pretrained(tokenizer.folder)
        self._special = frozenset(self._library.all_special_ids)

    @property
    def tokenizer_name(self) -> str:
        return str(self._tokenizer.folder)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        text: str = self._library.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    @property
    def prefix_token_id(self) -> int:
        return self._first

    @property
    def eot_token_id(self) -> int:
        eos = self._tokenizer.eos_id
        return self._first if eos is None else eos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        special = add_special_tokens
        if special is None:
            special = not string.startswith(self._first_text)
        ids: list[int] = self._tokenizer.encode(string, special=special).tolist()
        return ids

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """lm-eval's own, without its bar."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return scores

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenPair], **_: Any
    ) -> list[tuple[float, bool]]:
        longest = self._model.max_length
        texts = [
            continued(context, continuation=continuation, max_length=longest)
            for _, context, continuation in requests
        ]
        return [(score.log_likelihood, score.is_greedy) for score in self._scores(texts)]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        windows = [self._windows(request.args[0]) for request in requests]
        scores = iter(self._scores([text for texts in windows for text in texts]))
        return [sum(next(scores).log_likelihood for _ in texts) for texts in windows]

    def _windows(self, text: str) -> list[Text]:
        """Each token once, as much before it as the model has positions for."""
        longest = self._model.max_length
        pairs = get_rolling_token_windows(
            self.tok_encode(text, add_special_tokens=False),
            prefix_token=self._first,
            max_seq_len=longest,
            context_len=1,
        )
        return [
            continued(context, continuation=continuation, max_length=longest)
            for context, continuation in map(make_disjoint_window, pairs)
        ]

    def _scores(self, texts: Sequence[Text]) -> list[Score]:
        found = answered(
            texts,
            journal=self._journal,
            key=lambda text: key_of(text.inputs, text.labels),
            ask=lambda unknown: [list(astuple(score)) for score in self._model.score(unknown)],
            progress=self._progress,
        )
        return [Score(log_likelihood=answer[0], is_greedy=answer[1]) for answer in found]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Requests that are to be written in the same way are written together."""
        asked = [self._request(*request.args) for request in requests]
        found: dict[int, str] = {}
        for writing in dict.fromkeys(each.writing for each in asked):
            numbers = [n for n, each in enumerate(asked) if each.writing == writing]
            texts = self._written([asked[n].prompt for n in numbers], writing=writing)
            found |= dict(zip(numbers, texts, strict=True))
        return [found[n] for n in range(len(requests))]

    def _request(self, context: str, settings: dict[str, Any]) -> _Request:
        """Aliases of settings are lm-eval's."""
        wanted = normalize_gen_kwargs(settings, NEW_TOKENS)
        stops = handle_stop_sequences(wanted["until"], eos=None)
        new_tokens, room = int(wanted["max_gen_toks"]), self._model.max_length
        if new_tokens >= room:
            raise DataError(
                f"a task asks for {new_tokens} new tokens, and the model has positions for {room}; "
                "lower max_gen_toks in its YAML file."
            )
        writing = Writing(
            max_new_tokens=new_tokens,
            stops=tuple(stop for stop in stops if stop),
            end_ids=(self.eot_token_id,),
            temperature=float(wanted.get("temperature", 0.0)),
        )
        prompt = self.tok_encode(context) or [self._first]
        return _Request(prompt=tuple(prompt[-(room - new_tokens) :]), writing=writing)

    def _written(self, prompts: Sequence[tuple[int, ...]], *, writing: Writing) -> list[str]:
        if writing.temperature > 0:
            # The same prompt asked several times is to be answered in several ways.
            self._progress.part(before=0, count=len(prompts), total=len(prompts))
            texts = self._model.write(prompts, writing=writing)
        else:
            texts = answered(
                prompts,
                journal=self._journal,
                key=lambda prompt: key_of(prompt, asdict(writing)),
                ask=lambda unknown: self._model.write(unknown, writing=writing),
                progress=self._progress,
            )
        return [_before(self._plain(text), stops=writing.stops) for text in texts]

    def _plain(self, ids: Sequence[int]) -> str:
        """Without special tokens, as lm-eval compares answers."""
        return self._tokenizer.decode([n for n in ids if n not in self._special])


def _before(text: str, *, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
