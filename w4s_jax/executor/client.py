"""The client of any OpenAI-compatible server: one attempt, its reply, or a typed fault.

MeteredExecutor → **OpenAIBackend.send** → AsyncOpenAI (aiohttp transport) → POST /chat/completions

The client's own retries and timeouts are off: every attempt is counted once,
and the hard limit covers an attempt from its first byte to its last, so that a
server that drips cannot hold it. The body is parsed here, because the client's
models are built without validation and would let a broken one through.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from w4s_jax.errors import one_line
from w4s_jax.executor.adapter import Adapter, holds_object
from w4s_jax.executor.base import (
    AuthFault,
    BadRequestFault,
    BrokenBodyFault,
    ConnectionCutFault,
    EmptyReplyFault,
    Fault,
    MalformedReplyFault,
    QuotaFault,
    RateLimitedFault,
    ServerFault,
    TimeoutFault,
    UnreachableFault,
)
from w4s_jax.executor.prices import prompt_tokens_bound
from w4s_jax.types import CallContext, ChatReply, ChatRequest, InputError, Usage

DEFAULT_BASE_URL = "https://api.openai.com/v1"
CALL_TIMEOUT_SECONDS = 120.0
SAMPLE_HEADER = "X-W4S-Sample"
"""`<repetition>.<sample_index>`: a simulated server draws by it; others ignore it."""

_LOG = logging.getLogger(__name__)
_MAY_HAVE_RUN = frozenset({502, 504, 520, 522, 524})
"""A gateway lost the answer; what stands behind it may have made and billed it."""
_ENDED_EARLY = ("length", "content_filter")
"""Finish reasons of a choice that is returned as it is, empty or not."""


class OpenAIBackend:
    """Implements `base.Backend` over HTTP.

    Example:
        >>> OpenAIBackend("gpt-4o-mini", api_key="sk-example").model
        'gpt-4o-mini'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        key_variables: Sequence[str] = ("OPENAI_API_KEY",),
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        simulated_on_loopback: str = "",
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        """Makes the client; connects to nothing.

        Args:
            model: As the server calls it.
            base_url: None: `OPENAI_BASE_URL`, else OpenAI's own.
            api_key: None: that of `key_variables`. A server on loopback needs none.
            key_variables: Names of variables of the environment; the first that is set holds the key.
            timeout_seconds: Hard limit of one attempt, from its first byte to its last.
            simulated_on_loopback: Name of the model that is a simulator where the server is on this machine.
            client: Whose address, key and headers are used, over connections of our own, instead of the three above.

        Raises:
            InputError: The URL is not one, or the model's name or the key of a server elsewhere is missing.
        """
        if not model:
            raise InputError("the model's name is empty; give it as the server writes it, e.g. gpt-4o-mini")
        base_url = resolved_base_url(base_url) if client is None else str(client.base_url)
        loopback = _is_loopback(base_url)
        self.model, self.simulated = model, loopback and model == simulated_on_loopback
        self._timeout = timeout_seconds
        self._adapter = Adapter(model, needs_limit=True)
        self._key_name = f"the key of the {type(client).__name__}" if client else " or ".join(key_variables)
        client = client or openai.AsyncOpenAI(api_key=find_key(base_url, api_key, key_variables), base_url=base_url)
        self._client = client.copy(
            max_retries=0,
            timeout=None,
            http_client=openai.DefaultAioHttpClient(
                timeout=None,
                limits=httpx2.Limits(max_connections=0),  # none: who calls bounds what is on its way
                trust_env=not loopback,
            ),
        )

    async def send(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """Makes one attempt; see `base.Backend.send`."""
        payload = self._adapter.payload(request)
        headers = {SAMPLE_HEADER: f"{context.repetition}.{context.sample_index}"}
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(
                    "/chat/completions", cast_to=httpx2.Response, body=payload, options={"headers": headers}
                )
        except TimeoutError as error:
            raise TimeoutFault(f"no complete reply within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _connection_fault(error) from error
        except aiohttp.ClientError as error:
            raise ConnectionCutFault(one_line(str(error) or type(error).__name__)) from error
        except openai.APIStatusError as error:
            self._raise_status(error, payload)
        reply = parse_reply(response.content, request)
        self._adapter.counted(len(reply.texts), request, reply.usage)
        if "response_format" in payload and not _any_json(reply):
            raise MalformedReplyFault("no choice is a JSON object, though JSON was asked for", reply=reply)
        return reply

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def _raise_status(self, error: openai.APIStatusError, payload: Mapping[str, Any]) -> NoReturn:
        message = _error_message(error)
        self._adapter.refused(error.status_code, message, code=error.code, parameter=error.param, payload=payload)
        raise _status_fault(error, message, self._key_name) from error


def find_key(base_url: str, api_key: str | None = None, variables: Sequence[str] = ("OPENAI_API_KEY",)) -> str:
    """The key for a server: the one given, else that of the environment; a server on loopback needs none.

    Args:
        base_url: Of the server.
        api_key: None or empty: that of `variables`.
        variables: Names of variables of the environment; the first that is set holds the key.

    Raises:
        InputError: There is none, or it cannot be one.
    """
    keys = [api_key, *map(os.environ.get, variables), "none" if _is_loopback(base_url) else None]
    key, names = next(filter(None, keys), None), " or ".join(variables)
    if key is None:
        raise InputError(f"{names} is not set and {base_url} needs a key; export {variables[0]}=<key>")
    if not re.fullmatch(r"[!-~]+", key := key.strip()):
        raise InputError(f"{names} holds a character that no key has (a quote, a space, a line end?)")
    return key


def resolved_base_url(base_url: str | None) -> str:
    """The address that is asked: the one given, else `OPENAI_BASE_URL`, else OpenAI's own."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL


def _is_loopback(base_url: str) -> bool:
    """Whether the server is on this machine.

    Raises:
        InputError: It is not a URL of a web server, or holds a password.
    """
    parts = urlsplit(base_url)
    if parts.username or parts.password:
        raise InputError(
            f"the base URL of {parts.hostname} holds a user name or a password, which would be written into files; "
            "give the key by its variable, e.g. OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"base_url={base_url!r} is not a URL; write http[s]://host[:port]/v1")
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"


# --- faults -------------------------------------------------------------------


def _connection_fault(error: openai.APIConnectionError) -> Fault:
    """Tells a connection that was never made from one that broke.

    The transport reports a connection that the server dropped as a timeout while
    connecting; the aiohttp error below it says which it was.
    """
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    message = one_line(f"{type(causes[-1]).__name__}: {causes[-1]}")
    if any(isinstance(cause, httpx2.DecodingError) for cause in causes):
        return BrokenBodyFault(message)
    if any(isinstance(cause, (aiohttp.ClientConnectorError, httpx2.ConnectError)) for cause in causes):
        return UnreachableFault(message)
    return ConnectionCutFault(message)


def _status_fault(error: openai.APIStatusError, message: str, key_name: str) -> Fault:
    status = error.status_code
    wait = retry_after_seconds(error.response.headers)
    if status == 402 or (status == 429 and "insufficient_quota" in (error.code, error.type)):
        return QuotaFault(message)
    if status == 429:
        return RateLimitedFault(message, retry_after=wait)
    if status in (408, 409) or status >= 500:
        return ServerFault(message, retry_after=wait, billed_unknown=status in _MAY_HAVE_RUN)
    if status in (401, 403):
        return AuthFault(f"{message}; check {key_name} and what it may use")
    if status == 404:
        message += "; check the base URL, which ends in /v1 at most servers, and the model's name"
    return BadRequestFault(message)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait, from `retry-after-ms` or `Retry-After` (a number, or a date).

    A date is compared with the reply's own `Date`, so that this machine's clock does not matter.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def _error_message(error: openai.APIStatusError) -> str:
    text = error.body.get("message") if isinstance(error.body, Mapping) else error.body
    return one_line(f"HTTP {error.status_code}: {text or error.message}")


# --- bodies -------------------------------------------------------------------


def parse_reply(body: bytes, request: ChatRequest) -> ChatReply:
    """Reads a chat completion.

    Args:
        body: Of a 200.
        request: What it answers; at most its `n` choices are kept.

    Raises:
        BrokenBodyFault: It is not a chat completion.
        EmptyReplyFault: A choice has no text, for no reason that is given.
    """
    try:
        record = json.loads(body)
        choices = [_choice(choice) for choice in record["choices"]][: request.n]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenBodyFault(f"not a chat completion: {one_line(body[:200].decode(errors='replace'))!r}") from error
    texts, reasons = tuple(text for text, _ in choices), tuple(reason for _, reason in choices)
    usage = _usage(record.get("usage"), request, texts)
    if not choices or any(not text and reason not in _ENDED_EARLY for text, reason in choices):
        raise EmptyReplyFault(f"a choice without text, finish_reason={reasons}", usage=usage)
    return ChatReply(texts=texts, finish_reasons=reasons, usage=usage)


def _any_json(reply: ChatReply) -> bool:
    """Whether a workflow can read an object out of a choice, or one was ended early: all of them are paid again."""
    return any(
        reason in _ENDED_EARLY or holds_object(text)
        for text, reason in zip(reply.texts, reply.finish_reasons, strict=True)
    )


def _choice(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Text and finish reason; a model's refusal is a text like any other."""
    message = choice["message"]
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content, str(choice.get("finish_reason") or "stop")


def _usage(record: Any, request: ChatRequest, texts: tuple[str, ...]) -> Usage:
    """Tokens as the server counts them; an upper bound where it does not say.

    Some servers leave a model's hidden thoughts out of `completion_tokens` but
    not out of `total_tokens`; they are billed as completion.
    """
    fields = record if isinstance(record, Mapping) else {}
    prompt, completion, total = (_count(fields.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or completion is None:
        _LOG.debug("model %r does not report its usage: an upper bound is booked", request.model)
        length = sum(len(text.encode(errors="replace")) for text in texts)
        bound = length if request.max_tokens is None else request.max_tokens * request.n
        return Usage(prompt_tokens=prompt_tokens_bound(request.messages), completion_tokens=bound)
    details = fields.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else fields.get("prompt_cache_hit_tokens")
    return Usage(
        prompt_tokens=prompt,
        cached_prompt_tokens=min(_count(cached) or 0, prompt),
        completion_tokens=max(completion, (total or 0) - prompt),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
