"""The simulated executor over HTTP: an OpenAI-compatible server on loopback.

client ─ POST /v1/chat/completions ─ **server** ─ SimulatedBackend.reply ─ JSON

It gives the very replies of the back end in the process, and on request behaves as badly as
real services do: latency, rate limits, failures, cut connections, broken bodies, and
parameters it does not take. Faults are drawn by a hash of (seed, body, attempt), so
they do not depend on the order in which concurrent requests arrive. What it did stands
in a book, `GET /v1/book`, that a client's ledger can be compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from w4s_jax.executor.simulator.backend import SimulatedBackend
from w4s_jax.executor.simulator.model import SampleId, uniform
from w4s_jax.types import ChatReply, ChatRequest, InputError, Message

SAMPLE_HEADER = "X-W4S-Sample"
"""`<repetition>.<sample_index>`: which of several equal calls this is."""

_ALLOWED = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "response_format")
_MOST_CHOICES = 128


class FaultKind(enum.StrEnum):
    """How a request can fail on purpose."""

    RATE_LIMITED = "rate_limited"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500."""
    HANG = "hang"
    """No answer within any patience."""
    CUT = "cut"
    """The connection closes in the middle of the body."""
    BROKEN_BODY = "broken_body"
    """200 with half a JSON object."""
    EMPTY = "empty"
    """200 with a choice without text."""
    RATE_LIMITED_SILENT = "rate_limited_silent"
    """429 without Retry-After."""
    GATEWAY_ERROR = "gateway_error"
    """502: the reply was made, and may be billed, but was lost on its way."""
    MALFORMED_JSON = "malformed_json"
    """200 with half an object where JSON mode was asked for; nothing elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the server behaves; the default is a fast and faultless one.

    Example:
        >>> ServerOptions(faults={FaultKind.SERVER_ERROR: 0.1}).latency_scale
        0.0
    """

    latency_scale: float = 0.0
    """Seconds slept for each second of the response model's latency."""
    latency_sigma: float = 0.0
    """Spread of the latency, see `SimulatedBackend.seconds`."""
    faults: Mapping[FaultKind, float] = dataclasses.field(default_factory=dict)
    """Probability of each fault, for each attempt."""
    fault_seed: int = 0
    retry_after: float = 0.05
    """Seconds that a 429 asks to wait."""
    hang_seconds: float = 600.0
    unsupported: frozenset[str] = frozenset()
    """Parameters that are refused with a 400, as some models refuse `temperature` or `max_tokens`."""
    api_key: str | None = None
    """Key that requests have to bring; None takes any."""

    def __post_init__(self) -> None:
        total = sum(self.faults.values())
        if not (min(self.faults.values(), default=0.0) >= 0 and total <= 1):
            raise InputError(f"faults sum to {total}; give probabilities from 0 to 1 that sum to at most 1")


@dataclasses.dataclass(kw_only=True)
class Book:
    """What a server did."""

    attempts: int = 0
    replies: int = 0
    """Given whole and well-formed."""
    given_again: int = 0
    """Of these, to a request that had got one before."""
    prompt_tokens: int = 0
    """Of every reply that was made, those lost on their way included."""
    completion_tokens: int = 0
    faults: dict[str, int] = dataclasses.field(default_factory=dict)
    """By kind."""


@contextlib.asynccontextmanager
async def serve(backend: SimulatedBackend, port: int = 0, options: ServerOptions | None = None) -> AsyncIterator[str]:
    """Serves a backend on 127.0.0.1 and yields the base URL for a client.

    Args:
        backend: Gives the replies.
        port: To listen on; 0 takes a free one.
        options: Latency and faults.

    Raises:
        OSError: The port is taken.
    """
    runner = web.AppRunner(_application(backend, options or ServerOptions()), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        host, bound = runner.addresses[0][:2]
        yield f"http://{host}:{bound}/v1"
    finally:
        await runner.cleanup()


def _application(backend: SimulatedBackend, options: ServerOptions) -> web.Application:
    service = _Service(backend, options)
    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/v1/chat/completions", service.complete)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/v1/book", service.book)
    return app


class _Service:
    def __init__(self, backend: SimulatedBackend, options: ServerOptions) -> None:
        self._backend = backend
        self._options = options
        self._attempts: Counter[str] = Counter()
        self._given: set[str] = set()
        self._book = Book()

    async def book(self, _: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(self._book))

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._backend.model, "object": "model"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        options = self._options
        if options.api_key is not None and request.headers.get("Authorization") != f"Bearer {options.api_key}":
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        raw = await request.read()
        sample_header = request.headers.get(SAMPLE_HEADER, "0.0")
        try:
            chat = _chat_request(await request.json(), options.unsupported)
            sample = _sample(sample_header)
        except ValueError as error:
            parameter = error.parameter if isinstance(error, _BadParameter) else None
            return _error(400, str(error), "unsupported_parameter" if parameter else "invalid_request", parameter)
        digest = hashlib.sha256(raw + sample_header.encode()).hexdigest()
        fault = self._fault(digest, chat.json_mode)
        failed = await self._fail_early(fault)
        if failed is not None:
            return failed
        reply = self._reply(chat, sample)
        if options.latency_scale:
            seconds = self._backend.seconds(chat, sample, reply, sigma=options.latency_sigma)
            await asyncio.sleep(options.latency_scale * seconds)
        if fault is FaultKind.GATEWAY_ERROR:
            return _error(502, "Bad gateway.", "bad_gateway")
        if fault in (FaultKind.CUT, FaultKind.BROKEN_BODY):
            return await _broken(request, cut=fault is FaultKind.CUT)
        if fault is None:
            self._book.replies += 1
            self._book.given_again += digest in self._given
            self._given.add(digest)
        return web.json_response(_completion(_spoilt(reply, fault), chat.model))

    def _reply(self, chat: ChatRequest, sample: SampleId) -> ChatReply:
        reply = self._backend.reply(chat, sample)
        self._book.prompt_tokens += reply.usage.prompt_tokens
        self._book.completion_tokens += reply.usage.completion_tokens
        return reply

    def _fault(self, digest: str, json_mode: bool) -> FaultKind | None:
        """The fault of this attempt at one request, entered into the book."""
        self._book.attempts += 1
        if not self._options.faults:
            return None
        attempt = self._attempts[digest]
        self._attempts[digest] += 1
        draw = uniform(f"{self._options.fault_seed}/{digest}", str(attempt))
        for kind in FaultKind:
            draw -= self._options.faults.get(kind, 0.0)
            if draw < 0:
                if kind is FaultKind.MALFORMED_JSON and not json_mode:
                    return None
                self._book.faults[kind.value] = self._book.faults.get(kind.value, 0) + 1
                return kind
        return None

    async def _fail_early(self, fault: FaultKind | None) -> web.Response | None:
        """The faults that need no reply."""
        if fault in (FaultKind.RATE_LIMITED, FaultKind.RATE_LIMITED_SILENT):
            headers = {"Retry-After": str(self._options.retry_after)} if fault is FaultKind.RATE_LIMITED else None
            return _error(429, "Rate limit reached.", "rate_limit_exceeded", headers=headers)
        if fault is FaultKind.SERVER_ERROR:
            return _error(500, "The server had an error.", "server_error")
        if fault is FaultKind.HANG:
            await asyncio.sleep(self._options.hang_seconds)
            return _error(504, "The server had no answer in time.", "timeout")
        return None


class _BadParameter(ValueError):
    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


def _chat_request(body: Any, unsupported: frozenset[str]) -> ChatRequest:
    """Reads a body.

    Raises:
        ValueError: It is not a chat request.
        _BadParameter: It has a parameter that is not taken.
    """
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise ValueError("The body must be an object with `messages`.")
    for name in body:
        if name in unsupported or name not in _ALLOWED:
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            raise _BadParameter(name, f"Unsupported parameter: '{name}' is not supported with this model.{hint}")
    n = body.get("n") or 1
    if not isinstance(n, int) or not 1 <= n <= _MOST_CHOICES:
        raise _BadParameter("n", f"Invalid 'n': {n!r}; give 1 to {_MOST_CHOICES}.")
    response_format, temperature = body.get("response_format"), body.get("temperature")
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    if not isinstance(temperature, int | float | None):
        raise ValueError(f"Invalid 'temperature': {temperature!r}; give a number.")
    if not isinstance(max_tokens, int | None):
        raise ValueError(f"Invalid 'max_tokens': {max_tokens!r}; give a whole number.")
    return ChatRequest(
        model=str(body.get("model", "")),
        messages=tuple(_message(m) for m in body["messages"]),
        temperature=1.0 if temperature is None else float(temperature),
        max_tokens=max_tokens,
        n=n,
        json_mode=isinstance(response_format, dict) and response_format.get("type") == "json_object",
    )


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise ValueError("Each message must have a `role` and a text as `content`.")
    return Message(role=str(message.get("role", "user")), content=message["content"])


def _sample(header: str) -> SampleId:
    repetition, _, index = header.partition(".")
    if not (repetition.isdecimal() and index.isdecimal()):
        raise ValueError(f"{SAMPLE_HEADER}: {header} is not <repetition>.<sample_index>")
    return SampleId(int(repetition), int(index))


def _spoilt(reply: ChatReply, fault: FaultKind | None) -> ChatReply:
    """The reply as a fault leaves it."""
    if fault is FaultKind.EMPTY:
        return dataclasses.replace(reply, texts=("",) * len(reply.texts))
    if fault is FaultKind.MALFORMED_JSON:
        return dataclasses.replace(reply, texts=tuple(text[: len(text) // 2].rstrip("}") for text in reply.texts))
    return reply


def _completion(reply: ChatReply, model: str) -> dict[str, Any]:
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reason,
            "logprobs": None,
        }
        for i, (text, reason) in enumerate(zip(reply.texts, reply.finish_reasons, strict=True))
    ]
    usage = reply.usage
    return {
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        },
    }


def _error(
    status: int,
    message: str,
    code: str,
    parameter: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    kind = "invalid_request_error" if status == 400 else code
    body = {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def _broken(request: web.Request, *, cut: bool) -> web.StreamResponse:
    """Half a JSON object; a cut connection announces more than it sends."""
    half = b'{"id": "chatcmpl-simulated", "choices": [{"index": 0, "mess'
    if not cut:
        return web.Response(body=half, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "4096"})
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response
