"""What a model takes: the wire form of a request, and what is learnt from a refusal.

ChatRequest → **Adapter.payload** → chat.completions.create → refusal → **Adapter.refused** → payload without it

The metered client and `runtime.load_workflow` share it, so that a finished workflow asks as the search did.

Servers that call themselves OpenAI-compatible differ in four parameters:
`temperature`, `n`, `response_format`, and the name of the limit on the
completion. The table holds what is known of a model; the rest is assumed to be
taken until an error says otherwise. What is left out is logged once: a model
that takes no temperature samples at its own.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

from w4s_jax.executor.base import BadRequestFault, NotAcceptedFault, RefusedFault
from w4s_jax.sandbox.child.parsing import json_object
from w4s_jax.types import ChatRequest, Usage

MAX_LESSONS = 8
"""Parameters that a model may turn out not to take, in one call; none is learnt twice."""
JSON_TRIES = 4
"""Replies without the JSON that was asked for, of one call; the last is delivered as it is."""

_LOG = logging.getLogger(__name__)
_REFUSALS = (400, 413, 422)
"""Statuses of HTTP that may say what a model does not take, or what is wrong with the text."""
_LENGTH_NAMES = ("max_tokens", "max_completion_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """Which parameters are sent.

    Example:
        >>> Dialect().without("max_tokens").length_names
        ('max_completion_tokens',)
    """

    temperature: bool = True
    n: bool = True
    """More than one choice a request."""
    response_format: bool = True
    """JSON mode."""
    length_names: tuple[str, ...] = _LENGTH_NAMES
    """Names of the limit on the completion that may be taken; the first is used."""

    def payload(self, request: ChatRequest) -> dict[str, Any]:
        """The body of a request, without what the model does not take."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        }
        if self.temperature:
            body["temperature"] = request.temperature
        if request.max_tokens is not None and self.length_names:
            body[self.length_names[0]] = request.max_tokens
        if request.n > 1:
            body["n"] = request.n
        if request.json_mode and self.response_format:
            body["response_format"] = {"type": "json_object"}
        return body

    def without(self, parameter: str) -> Dialect:
        """The dialect that does not send `parameter`."""
        if parameter in _LENGTH_NAMES:
            names = tuple(name for name in self.length_names if name != parameter)
            return dataclasses.replace(self, length_names=names)
        change: dict[str, Any] = {parameter: False}
        return dataclasses.replace(self, **change)


_REASONING = Dialect(temperature=False, length_names=("max_completion_tokens",))
_KNOWN = (
    (re.compile(r"(o1|o3|o3-mini|o4-mini|gpt-5|gpt-5-mini|gpt-5-nano)(-\d{4}-\d{2}-\d{2})?"), _REASONING),
    (re.compile(r"claude-.*"), Dialect(n=False)),
)


def known_dialect(model: str) -> Dialect:
    """What the table says of `model`; everything is taken where it says nothing."""
    return next((dialect for pattern, dialect in _KNOWN if pattern.fullmatch(model)), Dialect())


_NOT_TAKEN = re.compile(
    r"unsupported|not (yet )?(be )?support|n[o']t support|not permitted|not allowed|unrecognized|unknown|unexpected"
    r"|only the default|only one (choice|completion)|must be (exactly )?1\b|(has|need)s? to be (exactly )?1\b"
    r"|use '?max_(completion_)?tokens",
    re.IGNORECASE,
)
_NAMED = {
    "max_tokens": r"\bmax_tokens\b",
    "max_completion_tokens": r"\bmax_completion_tokens\b",
    "temperature": r"\btemperature\b",
    "response_format": r"\bresponse_format\b|\bjson_object\b|json mode",
    "n": r"['\"`]n['\"`]|\bn\s*(=|>|is\b|must\b|has\b)|parameter:? n\b|only one (choice|completion)",
}


def parameter_not_taken(message: str, parameter: str | None, payload: Mapping[str, Any]) -> str | None:
    """Reads an error of a server: the parameter of `payload` that the model does not take.

    Args:
        message: The error's text.
        parameter: As the error names it in a field of its own; None where it does not.
        payload: The body that was refused.

    Returns:
        A name in `payload`; None where the error is about something else.
    """
    if not _NOT_TAKEN.search(message):
        return None
    if parameter:
        parameter = parameter.split(".")[0]
        return parameter if parameter in _NAMED and parameter in payload else None
    places = {
        name: found.start()
        for name, pattern in _NAMED.items()
        if name in payload and (found := re.search(pattern, message, re.IGNORECASE))
    }
    return min(places, key=places.__getitem__) if places else None


class Adapter:
    """Asks one model in its dialect, and learns what it does not take; shared by all calls of one event loop.

    Attributes:
        model: Its name.
        dialect: What it takes, as far as it is known.
    """

    def __init__(self, model: str, *, needs_limit: bool = False) -> None:
        """Starts from what the table knows of the model.

        Args:
            model: Its name, as requests carry it.
            needs_limit: Whether a model that takes no limit on the completion is refused, as no cap could hold.
        """
        self.model, self.dialect = model, known_dialect(model)
        self._needs_limit = needs_limit

    def payload(self, request: ChatRequest) -> dict[str, Any]:
        """The body of a request, without what the model does not take; a caller asks in parts where `dialect.n` is not.

        Raises:
            NotAcceptedFault: More than one choice is asked for, and the model answers with one a request.
        """
        if request.n > 1 and not self.dialect.n:
            raise NotAcceptedFault(f"model {self.model!r} answers with one choice a request", parameter="n")
        return self.dialect.payload(request)

    def refused(
        self, status: int | None, message: str, *, code: str | None, parameter: str | None, payload: Mapping[str, Any]
    ) -> None:
        """Learns from a refusal; returns where it teaches nothing, and is an error like any other.

        Args:
            status: Of HTTP; None where the client says none.
            message: The error's text.
            code: Of the error, in a field of its own; None where it has none.
            parameter: Likewise.
            payload: The body that was refused.

        Raises:
            NotAcceptedFault: The model does not take a parameter; `payload` has it no more from now on.
            RefusedFault: The text is at fault.
            BadRequestFault: The model takes no limit on the completion, and one is needed.
        """
        if status not in _REFUSALS:
            return
        lacking = parameter_not_taken(message, parameter, payload)
        if lacking is not None:
            if self._needs_limit and not self.dialect.without(lacking).length_names:
                raise BadRequestFault(f"no limit on the completion is taken, so no cap could hold: {message}")
            self._learn(lacking, message)
            raise NotAcceptedFault(message, parameter=lacking)
        if text_at_fault(status, code, parameter, message):
            raise RefusedFault(message)

    def counted(self, given: int, request: ChatRequest, usage: Usage | None = None) -> None:
        """Learns from a reply with fewer choices than were asked for.

        Args:
            given: Choices in the reply.
            request: What it answers.
            usage: Tokens of the reply, where they are known.

        Raises:
            NotAcceptedFault: They were fewer; each is asked for by itself from now on.
        """
        if given < request.n:
            self._learn("n", f"it answered with {given} choices where {request.n} were asked for")
            raise NotAcceptedFault("fewer choices than asked for", parameter="n", usage=usage)

    def _learn(self, parameter: str, why: str) -> None:
        dialect = self.dialect.without(parameter)
        if dialect != self.dialect:
            _LOG.warning(
                "model %r does not take %s and is asked without it from now on: %s", self.model, parameter, why
            )
            self.dialect = dialect


# --- what a refusal, and a reply, are about -------------------------------------

_TEXT_AT_FAULT_PARAMETERS = frozenset({"messages", "temperature", "n", "max_tokens", "max_completion_tokens"})
_TEXT_AT_FAULT_WORDS = (
    "context_length_exceeded",
    "context length",
    "context window",
    "maximum context",
    "too long",
    "too many tokens",
    "string_above_max_length",
    "content_policy",
    "content_filter",
    "content management policy",
    "invalid_prompt",
)


def text_at_fault(status: int, code: str | None, parameter: str | None, message: str) -> bool:
    """Whether a server refuses a request for what its author wrote: too long, against a policy, out of range.

    Args:
        status: Of HTTP.
        code: Of the error; None where it has none.
        parameter: As the error names it in a field of its own; None where it does not.
        message: The error's text.
    """
    text = f"{code or ''} {message}".lower()
    at_fault = status == 413 or parameter in _TEXT_AT_FAULT_PARAMETERS
    return at_fault or any(words in text for words in _TEXT_AT_FAULT_WORDS)


def holds_object(text: str) -> bool:
    """Whether a workflow can read a JSON object out of a reply: by the agent's own reading of it."""
    return json_object(text) is not None
