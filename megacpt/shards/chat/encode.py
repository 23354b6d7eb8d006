# SPDX-License-Identifier: Apache-2.0
"""Conversations to token ids, and which of them the assistant said.

The ids are those of the whole text, as ``apply_chat_template`` gives them: the template has written
BOS where the model wants one. A token is learned if a character of it is.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacpt.errors import DataError
from megacpt.shards.chat.conversation import Conversation, ConversationError
from megacpt.shards.chat.template import ChatTemplate, Rendered
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import EncodeError
from megacpt.tokenizer.hugging_face import HuggingFaceBackend, Located


class OnLong(enum.Enum):
    """What happens to a conversation of more tokens than are allowed."""

    stop = "stop"
    skip = "skip"
    """It is left out, and counted."""
    truncate = "truncate"
    """Its end is cut off, and it is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChat:
    """T: tokens of one conversation."""

    ids_T: npt.NDArray[np.int32]
    learned_T: npt.NDArray[np.uint8]
    truncated: bool = False


ChatOutcome = EncodedChat | ConversationError
"""What became of one conversation."""


class TooLongError(ConversationError):
    """It has more tokens than are allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEncoder:
    tokenizer: Tokenizer
    template: ChatTemplate
    max_tokens: int | None = None
    on_long: OnLong = OnLong.stop

    def encode(self, conversations: Sequence[Conversation]) -> list[ChatOutcome]:
        """One outcome each, in order."""
        rendered = [self._render(conversation) for conversation in conversations]
        texts = [found.text for found in rendered if isinstance(found, Rendered)]
        located = iter(self._locate(texts))
        return [
            self._bounded(found, located=next(located)) if isinstance(found, Rendered) else found
            for found in rendered
        ]

    def _render(self, conversation: Conversation) -> Rendered | ConversationError:
        try:
            found = self.template.render(conversation)
            found.text.encode("utf-8")
        except UnicodeEncodeError as error:
            return ConversationError(f"is not Unicode ({error})")
        except ConversationError as error:
            return error
        return found

    def _locate(self, texts: Sequence[str]) -> list[Located | EncodeError]:
        backend = self.tokenizer.backend
        if not isinstance(backend, HuggingFaceBackend):
            raise DataError(
                f"tokenizer {self.tokenizer.folder} is no tokenizer.json, which conversations "
                "need: it alone says which characters a token stands for. Give the Hugging Face "
                "folder of the model."
            )
        return backend.locate(texts)

    def _bounded(self, rendered: Rendered, *, located: Located | EncodeError) -> ChatOutcome:
        if isinstance(located, EncodeError):
            return ConversationError(f"cannot be encoded ({located})")
        ids_T, learned_T = located.ids, located.within(rendered.spans)
        beyond = ids_T[ids_T >= self.tokenizer.vocab_size]
        if beyond.size:
            token = self.tokenizer.decode(beyond[:1])
            return ConversationError(f"has the token {token}, which the model has no row for")
        limit = ids_T.size if self.max_tokens is None else self.max_tokens
        is_long = ids_T.size > limit
        if is_long and self.on_long is not OnLong.truncate:
            return TooLongError(
                f"has {ids_T.size:,} tokens, and {limit:,} are allowed (--max-tokens)"
            )
        if not learned_T[1:limit].any():
            return ConversationError("holds no token of the assistant's to learn")
        return EncodedChat(ids_T=ids_T[:limit], learned_T=learned_T[:limit], truncated=is_long)
