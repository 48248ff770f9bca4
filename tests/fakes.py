"""A scripted back end, and a scripted OpenAI-compatible server on loopback."""

import asyncio
import collections
import contextlib
import dataclasses
import json

import pytest
from aiohttp import web

from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import Price, PriceTable, prompt_tokens_bound
from w4s_jax.types import CallContext, ChatReply, ChatRequest, Message, Purpose, Usage

PRICE = Price(input=1.0, cached_input=0.5, output=2.0)  # micro-USD a token
PRICES = PriceTable({"fake": PRICE})
BOUND = prompt_tokens_bound([Message(role="user", content="hi")]) + 2 * 100  # micro-USD of ask("hi")
ACTUAL = 10 + 2 * 20  # micro-USD of a reply with the fakes' usage


def ask(text="hi", *, model="fake", **fields):
    """A request for `text`."""
    return ChatRequest(model=model, messages=(Message(role="user", content=text),), **{"max_tokens": 100, **fields})


def here(sample_index=0, *, purpose=Purpose.OPTIMISATION, **fields):
    """A call's context."""
    return CallContext(purpose=purpose, sample_index=sample_index, **fields)


def reply(*texts, prompt=10, completion=20, cached=0, finish="stop"):
    """A reply with usage."""
    usage = Usage(prompt_tokens=prompt, cached_prompt_tokens=cached, completion_tokens=completion)
    return ChatReply(texts=texts, finish_reasons=(finish,) * len(texts), usage=usage)


def echo(request, context, attempt):
    """Answers with the question and the number of the sample."""
    return reply(*(f"{request.messages[-1].content}#{context.sample_index}.{choice}" for choice in range(request.n)))


class FakeBackend:
    """Answers by `script(request, context, attempt)`; an exception that it returns is raised.

    `attempt` counts sends of the same request and context, from 0. `open`, where
    given, is an event that every send waits for.
    """

    def __init__(self, script=echo, *, model="fake", simulated=False, open=None):
        self.model, self.simulated = model, simulated
        self.script, self.open = script, open
        self.sent = []
        self.now = self.most = 0
        self.closed = False
        self._attempts = collections.Counter()

    async def send(self, request, context):
        self.sent.append((request, context))
        attempt = self._attempts[request, context]
        self._attempts[request, context] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await (self.open.wait() if self.open else asyncio.sleep(0))
            answer = self.script(request, context, attempt)
        finally:
            self.now -= 1
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def close(self):
        self.closed = True


async def no_sleep(seconds):
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(path, backend, *, caps=None, sleep=no_sleep, **options):
    """An executor over a backend with its store and budget; what it spent is `executor.store.summary()`."""
    store = CallStore(path / "calls.sqlite")
    budget = Budget(caps or Caps(usd=1.0), spent=store.spent)
    try:
        async with MeteredExecutor(backend, store, budget, PRICES, MeteredOptions(**options), sleep=sleep) as executor:
            executor.store, executor.budget = store, budget
            yield executor
    finally:
        await store.close()


def micro(usd):
    """So many millionths of a dollar, rounding aside."""
    return pytest.approx(usd * 1e-6, abs=1e-12)


@dataclasses.dataclass
class Answer:
    """What the scripted server sends."""

    body: object = None
    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    how: str = "whole"
    """`whole`; `cut` before the reply or `cut_body` within it; `hang`; `drip` a byte at a time."""


def completion(*texts, prompt=10, completion=20, finish="stop", **usage):
    """A chat completion's body."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **usage}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "fake", "choices": choices, "usage": usage}


def refusal(message, *, status=400, headers=None, **error):
    """An error's answer."""
    return Answer({"error": {"message": message, **error}}, status=status, headers=headers or {})


class FakeServer:
    """Serves `/v1/chat/completions` by `script(body, headers, attempt)` → Answer or a body.

    `attempt` counts requests with the same body and sample header, from 0.
    """

    def __init__(self, script):
        self.script = script
        self.requests = []
        self._attempts = collections.Counter()

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *error):
        await self._runner.cleanup()

    async def _handle(self, request):
        body = await request.json()
        self.requests.append((body, request.headers.copy()))
        key = (json.dumps(body, sort_keys=True), request.headers.get("X-W4S-Sample"))
        answer = self.script(body, request.headers, self._attempts[key])
        self._attempts[key] += 1
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        if answer.how == "whole":
            headers = {"Content-Type": "application/json", **answer.headers}
            return web.Response(body=data, status=answer.status, headers=headers)
        return await self._misbehave(request, answer, data)

    async def _misbehave(self, request, answer, data):
        if answer.how == "cut":
            request.transport.close()
            return web.Response()
        if answer.how == "hang":
            await asyncio.sleep(30)
        response = web.StreamResponse(headers={"Content-Length": str(len(data)), "Content-Type": "application/json"})
        await response.prepare(request)
        if answer.how == "cut_body":
            await response.write(data[: len(data) // 2])
            request.transport.close()
            return response
        for byte in data:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return response
