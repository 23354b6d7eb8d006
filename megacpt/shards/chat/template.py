# SPDX-License-Identifier: Apache-2.0
"""A conversation as the one text that a model reads, and which parts of it the assistant said.

Transformers renders the Jinja template, sandboxed, as ``apply_chat_template`` does. The assistant's
parts are those that the template marks (``{% generation %}``). Where it marks none, they are found
by what the text is up to each turn, which has to be a prefix of the whole: a template that says
earlier turns in other words later (most often without their thoughts) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacpt.corpus.not_learned import CharacterSpan
from megacpt.errors import ConfigError, DataError
from megacpt.shards.chat.conversation import Conversation, ConversationError, Message
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.folder import CONFIG, read_beside, read_json

if TYPE_CHECKING:
    from jinja2 import nodes

FILE = "chat_template.jinja"
BUILTIN = Path(__file__).parent / "templates"
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TOKENS = re.compile(r"<\|[a-z_]+\|>")
"""Special tokens as a packaged template writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    text: str
    spans: tuple[CharacterSpan, ...]
    """What is learned: the assistant's turns with what ends them, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    name: str
    """For people: where it is from."""
    text: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """``bos_token`` and others, by the names that a template knows them by."""

    @property
    def is_marked(self) -> bool:
        return MARKS.search(self.text) is not None

    def render(self, conversation: Conversation) -> Rendered:
        """ConversationError where the template refuses it, or it is no prefix of itself."""
        if self.is_marked:
            return self._by_marks(conversation)
        return self._by_prefixes(conversation)

    def _by_marks(self, conversation: Conversation) -> Rendered:
        text, spans = self._text(conversation.messages, tools=conversation.tools, tracked=True)
        replies = [
            learned
            for message, learned in zip(conversation.messages, conversation.learned, strict=True)
            if message["role"] == "assistant"
        ]
        if len(spans) != len(replies) and not all(replies):
            raise ConversationError(
                f"has {len(replies)} messages of the assistant, some of which are not to be "
                f"learned, but the template {self.name} marks {len(spans)} parts"
            )
        if len(spans) == len(replies):
            spans = [span for span, learned in zip(spans, replies, strict=True) if learned]
        return Rendered(text=text, spans=tuple(spans))

    def _by_prefixes(self, conversation: Conversation) -> Rendered:
        messages, tools = conversation.messages, conversation.tools
        text, _ = self._text(messages, tools=tools)
        spans = []
        for number, learned in enumerate(conversation.learned):
            if not learned:
                continue
            before, _ = self._text(messages[:number], tools=tools, asks=True)
            is_last = number + 1 == len(messages)
            after = text if is_last else self._text(messages[: number + 1], tools=tools)[0]
            if not (after.startswith(before) and text.startswith(after)):
                raise ConversationError(
                    f"cannot be cut into turns: the template {self.name} writes what comes before "
                    f"messages[{number}] differently once it is there. Give one that marks the "
                    "assistant's parts with {% generation %}, by --chat-template FILE, or the "
                    f"conversation in parts that end with messages[{number}]"
                )
            spans.append((len(before), len(after)))
        return Rendered(text=text, spans=tuple(spans))

    def _text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]],
        asks: bool = False,
        tracked: bool = False,
    ) -> tuple[str, list[CharacterSpan]]:
        """``asks``: up to where the assistant is to speak."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                [list(messages)],
                tools=list(tools) or None,
                chat_template=self.text,
                return_assistant_tokens_mask=tracked,
                add_generation_prompt=asks,
                **self.special_tokens,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ConversationError(
                f"is refused by the template {self.name} ({type(error).__name__}: {error})"
            ) from error
        return texts[0], list(spans[0]) if spans else []


def choose_template(given: str | None, *, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of that name, file or folder; None: the tokenizer's own."""
    folder = _folder_of(tokenizer)
    if given is None:
        name, text = f"of {folder}", _of_folder(folder)
    elif (BUILTIN / f"{given}.jinja").is_file() and not Path(given).exists():
        name, text = given, _builtin(given, tokenizer=tokenizer)
    else:
        name, text = given, _of_path(Path(given))
    if text is None:
        raise DataError(
            f"{name.removeprefix('of ')} has no chat template ({FILE}, or chat_template in "
            f"{CONFIG}), as most base models have none; name one with --chat-template: "
            f"{', '.join(packaged())}, a Jinja file, or the folder of a model that has one."
        )
    made = ChatTemplate(name=name, text=text, special_tokens=dict(_special_tokens(folder)))
    _require_readable(made)
    return made


def own_template(tokenizer: Tokenizer) -> str | None:
    """That of the tokenizer's folder, where there is one."""
    return _of_folder(_folder_of(tokenizer))


def packaged() -> list[str]:
    return sorted(path.stem for path in BUILTIN.glob("*.jinja"))


def _folder_of(tokenizer: Tokenizer) -> Path:
    return tokenizer.folder if tokenizer.folder.is_dir() else tokenizer.folder.parent


def _builtin(name: str, *, tokenizer: Tokenizer) -> str:
    """A packaged template, whose special tokens have to be single ones of the tokenizer."""
    text = (BUILTIN / f"{name}.jinja").read_text(encoding="utf-8")
    for token in sorted(set(TOKENS.findall(text))):
        if tokenizer.encode(token, special=False).size != 1:
            raise ConfigError(
                f"--chat-template {name} writes {token}, which the tokenizer {tokenizer.folder} "
                "has no token for; use --chat-template plain, or add the token first: "
                "megacpt vocabulary --add."
            )
    return text


def _of_path(path: Path) -> str | None:
    if path.is_dir():
        return _of_folder(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"--chat-template {path} cannot be read ({error}); name one of "
            f"{', '.join(packaged())}, a Jinja file, or the folder of a model that has one."
        ) from error


def _of_folder(folder: Path) -> str | None:
    """As transformers looks for it: the file first; of several the one named ``default``."""
    if (folder / FILE).is_file():
        return (folder / FILE).read_text(encoding="utf-8")
    found = read_json(folder / CONFIG).get("chat_template")
    if isinstance(found, list):
        named = {item["name"]: item["template"] for item in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(folder: Path) -> Iterator[tuple[str, str]]:
    for name, value in read_beside(folder).special().items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            yield name, text


def _require_readable(template: ChatTemplate) -> None:
    """DataError where it is not Jinja as transformers takes it, or has marks that it misplaces."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        environment = _compile_jinja_template(template.text).environment
    except TemplateError as error:
        raise DataError(
            f"the chat template {template.name} is not one that transformers can read: {error}; "
            "fix it, or name another with --chat-template."
        ) from error
    if _has_buffered_marks(environment.parse(template.text)):
        raise DataError(
            f"the chat template {template.name} has {{% generation %}} inside a macro, or a block "
            "of set, filter or call: what is said there reaches the text later, and transformers "
            "takes other characters for the assistant's; take the marks out of it, or name "
            "another with --chat-template."
        )


def _has_buffered_marks(template: nodes.Template) -> bool:
    """Whether a mark lies where Jinja gathers what is written before it goes to the text."""
    from jinja2 import nodes

    gathering: tuple[type[Any], ...] = (
        nodes.Macro,
        nodes.AssignBlock,
        nodes.FilterBlock,
        nodes.CallBlock,
    )
    inside = (part for block in template.find_all(gathering) for part in block.body)
    marks = (mark for part in inside for mark in part.find_all(nodes.ExtensionAttribute))
    return any(mark.name == "_generation_support" for mark in marks)
