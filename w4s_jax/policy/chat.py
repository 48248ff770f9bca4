"""Messages ↔ token ids, through the chat template of a Hugging Face tokenizer.

messages → **Chat** → ids → generate → ids → text (and the ids themselves → training)

What a model sampled is kept as it was sampled: `extend` appends to recorded ids
and never renders an assistant's text, because decoding and tokenising again does
not always give the same ids back.

Text that comes from outside (answers of an executor, workflows, feedback) can
spell a special token. Such text is encoded as plain characters: only the template
itself may open and close turns.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w4s_jax.errors import first_line
from w4s_jax.types import InputError, Message

_STUB = Message(role="user", content="?")
# Some templates print the day's date unless they are given one; a prompt must not depend on the clock.
_TEMPLATE_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def _import_auto_tokenizer() -> Any:
    """Imports the loader of tokenizers, which takes seconds.

    Without PyTorch `transformers` says so once; nothing here needs it, so that advice stays unsaid.
    """
    logger = logging.getLogger("transformers")

    def needed(record: logging.LogRecord) -> bool:
        return "PyTorch" not in record.getMessage()

    logger.addFilter(needed)
    try:
        from transformers import AutoTokenizer
    finally:
        logger.removeFilter(needed)
    return AutoTokenizer


class Chat:
    """A tokenizer with its chat template; for one thread at a time.

    Covers templates that close an assistant message with a special token (ChatML as
    in Qwen2.5 and Qwen3, Llama-3). Tools are never offered and thinking is off.

    Example:
        >>> chat = Chat.load("Qwen/Qwen2.5-0.5B-Instruct")  # doctest: +SKIP
        >>> prompt = chat.render([Message(role="user", content="hi")])  # doctest: +SKIP
        >>> chat.extend(prompt, chat.encode_action("hello"), [Message(role="user", content="more")])  # doctest: +SKIP
    """

    end_of_turn: int
    """Id of the special token that closes an assistant message."""
    stop_ids: tuple[int, ...]
    """Ids that end a sample: `end_of_turn`, and the end-of-text id where it is another one."""

    def __init__(self, tokenizer: Any, *, name: str = "tokenizer") -> None:
        """Wraps a `transformers` fast tokenizer.

        Args:
            tokenizer: A `PreTrainedTokenizerFast` with a chat template.
            name: What errors call it.

        Raises:
            InputError: It has no chat template, or its template closes an assistant message with no special token.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(f"{name} has no chat template; take an instruction-tuned model's tokenizer")
        self.tokenizer = tokenizer
        self.name = name
        special = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = frozenset(special.values())
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        template = str(tokenizer.get_chat_template())
        self._options = {key: value for key, value in _TEMPLATE_OPTIONS.items() if key in template}
        self.end_of_turn = self._find_end_of_turn()
        end_of_text = tokenizer.eos_token_id
        self.stop_ids = tuple(dict.fromkeys(id_ for id_ in (self.end_of_turn, end_of_text) if id_ is not None))

    @classmethod
    def load(cls, path: str | Path) -> Chat:
        """Loads the tokenizer of a folder or of a hub id.

        Raises:
            InputError: Nothing can be loaded from `path`, or as in the constructor.
        """
        try:
            tokenizer = _import_auto_tokenizer().from_pretrained(str(path))
        except (OSError, ValueError) as error:
            raise InputError(
                f"tokenizer={path} cannot be loaded: {first_line(error)}; give a folder or a hub id"
            ) from error
        return cls(tokenizer, name=f"tokenizer={path}")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(int(id_) for id_ in self.tokenizer.get_vocab().values())

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of `messages` and of the opening of the assistant's reply.

        Raises:
            InputError: There are no messages, or the template refuses them.
        """
        mark, _ = _two_unused_characters(messages)
        return self._encode(self._render_text(messages, mark, opening=True), mark)

    def encode_dialogue(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of a whole dialogue, with no opening of a further reply.

        Raises:
            InputError: There are no messages, or the template refuses them.
        """
        mark, _ = _two_unused_characters(messages)
        return self._encode(self._render_text(messages, mark, opening=False), mark)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of a text that is no dialogue, by the tokenizer's defaults; special tokens are read as such."""
        return tuple(self.tokenizer.encode(text))

    def extend(
        self, prompt_ids: Sequence[int], action_ids: Sequence[int], messages: Sequence[Message]
    ) -> tuple[int, ...]:
        """Ids of the dialogue after an action and further messages, with the opening of the next reply.

        Args:
            prompt_ids: What the action was sampled from.
            action_ids: As sampled; its turn is closed here where the sample stopped by length.
            messages: What follows the action.

        Returns:
            Ids that begin with `prompt_ids + action_ids`.

        Raises:
            InputError: The template refuses the messages.
        """
        tail = self._tail(messages, opening=True)
        if action_ids and action_ids[-1] in self.stop_ids:
            tail = tail[tail.index(self.end_of_turn) + 1 :]
        return (*prompt_ids, *action_ids, *tail)

    def encode_action(self, text: str) -> tuple[int, ...]:
        """Ids of an action's text, closed by the end-of-turn token."""
        return (*self._encode_plain(text), self.end_of_turn)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        kept = [int(id_) for id_ in ids if id_ not in self._special_ids]
        return str(self.tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    def _find_end_of_turn(self) -> int:
        for id_ in self._tail((), opening=False):
            if id_ in self._special_ids:
                return id_
        raise InputError(
            f"{self.name}: its chat template puts no special token after an assistant message, so the end of a turn "
            "cannot be sampled; take a ChatML or Llama-3 style template"
        )

    def _tail(self, messages: Sequence[Message], *, opening: bool) -> tuple[int, ...]:
        """Ids of what the template puts after an assistant's text: rendered with a stand-in text, cut after it."""
        mark, stand_in = _two_unused_characters(messages)
        dialogue = (_STUB, Message(role="assistant", content=stand_in), *messages)
        _, _, tail = self._render_text(dialogue, mark, opening=opening).partition(stand_in)
        return self._encode(tail, mark)

    def _render_text(self, messages: Sequence[Message], mark: str, *, opening: bool) -> str:
        """Renders to text; a special token that stands in a message's content gets `mark` after its first character."""
        from jinja2 import TemplateError  # what templates are written in

        dialogue = [{"role": message.role, "content": self._defuse(message.content, mark)} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                dialogue, tokenize=False, add_generation_prompt=opening, **self._options
            )
        except (TemplateError, ValueError) as error:
            roles = ", ".join(message.role for message in messages) or "none"
            raise InputError(f"{self.name}: its chat template refuses messages with roles {roles}: {error}") from error
        return str(text)

    def _defuse(self, content: str, mark: str) -> str:
        return self._special.sub(lambda found: found[0][0] + mark + found[0][1:], content)

    def _encode(self, text: str, mark: str) -> tuple[int, ...]:
        if mark not in text:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))
        ids: list[int] = []
        for index, piece in enumerate(self._special.split(text)):
            if index % 2:  # `split` puts what matched at the odd places
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            else:
                ids.extend(self._encode_plain(piece.replace(mark, "")))
        return tuple(ids)

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of `text` with no special token in it, whatever it spells."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _two_unused_characters(messages: Sequence[Message]) -> tuple[str, str]:
    """Two private-use characters that no message contains."""
    used = frozenset().union(*(message.content for message in messages))
    first, second = itertools.islice((c for c in map(chr, range(0xE000, 0xF900)) if c not in used), 2)
    return first, second
