"""What does a call cost beside the model? `python -m benchmarks.executor`.

clients to one server → {one call after the other, many at once, 2,000 held} → **ms, calls/s, CPU, memory**

A server in a process of its own answers at once, or holds a call until it is told to let go.
The same calls go through five clients in turns: a bare aiohttp POST (what HTTP itself costs
here), the openai package as it comes, our back end over it (`OpenAIBackend`), the whole executor
(cache key, reservation, a committed row before and after, reply kept), and the whole
executor once more, which then has every reply. `calls/s of one core` is calls by this
process's own CPU time; the server has the other core. Ratios to the bare POST are of one run
on the same work; no time by itself means anything on another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import openai
from aiohttp import web

from benchmarks.sandbox import resident, table
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import OpenAIBackend
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import Price, PriceTable
from w4s_jax.types import CallContext, ChatRequest, Message, Purpose

MODEL = "bench"
PROMPT = "x" * 2_000
REPLY = "y" * 1_200
HOLD = "hold"
IN_FLIGHT = 2_000
CLIENTS = ("bare aiohttp", "openai package", "our back end", "executor", "executor, cached")

Send = Callable[[str], Awaitable[object]]
"""Makes one call with a text."""


class Measured(NamedTuple):
    """One client."""

    alone_ms: list[float]
    """Of calls made one after the other."""
    calls_per_second: list[float]
    """Many at once, by sweep; the next one, too."""
    cpu_ms: list[float]
    """Of this process, a call."""


# --- the server -----------------------------------------------------------------


def serve() -> None:
    """Answers on a free port of loopback, whose address it prints, until standard input ends."""
    gate, held = asyncio.Event(), 0
    usage = {"prompt_tokens": 500, "completion_tokens": 300, "total_tokens": 800}
    choice = {"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}
    told = {"id": "b", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
    body = json.dumps(told).encode()

    async def complete(request: web.Request) -> web.Response:
        nonlocal held
        if HOLD.encode() in (await request.read())[-200:]:
            held += 1
            await gate.wait()
        return web.Response(body=body, content_type="application/json")

    async def count(_: web.Request) -> web.Response:
        return web.json_response(held)

    async def let_go(_: web.Request) -> web.Response:
        gate.set()
        return web.json_response(held)

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/held", count)
        app.router.add_get("/let_go", let_go)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=IN_FLIGHT).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def served(module: str, *flags: str) -> AsyncIterator[str]:
    """The address that a benchmark's server, in a process of its own, prints first; it ends with its input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--serve", *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip()
    process.stdin.close()
    await process.wait()


# --- the clients --------------------------------------------------------------------


def request(text: str) -> ChatRequest:
    return ChatRequest(model=MODEL, messages=(Message(role="user", content=PROMPT + text),), max_tokens=400)


@contextlib.asynccontextmanager
async def executor(url: str, folder: Path, concurrency: int) -> AsyncIterator[Send]:
    """The whole executor, with a ledger of its own."""
    prices = PriceTable({MODEL: Price(input=0.15, cached_input=0.075, output=0.6)})
    store = CallStore(folder / "calls.sqlite")
    backend = OpenAIBackend(MODEL, base_url=f"{url}/v1")
    budget, options = Budget(Caps(usd=1e9), spent=store.spent), MeteredOptions(concurrency=concurrency)
    async with MeteredExecutor(backend, store, budget, prices, options) as client:
        yield lambda text: client.complete(request(text), CallContext(purpose=Purpose.OPTIMISATION))
    await store.close()


@contextlib.asynccontextmanager
async def all_clients(url: str, folder: Path, concurrency: int) -> AsyncIterator[dict[str, Send]]:
    """Every client by name; the last two are one."""
    payload = {"model": MODEL, "max_tokens": 400}

    def messages(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": PROMPT + text}]

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as package,
        executor(url, folder, concurrency) as whole,
    ):
        ours = OpenAIBackend(MODEL, base_url=f"{url}/v1")

        async def bare(text: str) -> object:
            sent = payload | {"messages": messages(text)}
            async with session.post(f"{url}/v1/chat/completions", json=sent) as response:
                return await response.json()

        yield {
            "bare aiohttp": bare,
            "openai package": lambda text: package.chat.completions.create(messages=messages(text), **payload),
            "our back end": lambda text: ours.send(request(text), CallContext(purpose=Purpose.OPTIMISATION)),
            "executor": whole,
            "executor, cached": whole,
        }
        await ours.close()


# --- measuring ----------------------------------------------------------------------


async def alone(send: Send, texts: list[str]) -> list[float]:
    """Milliseconds of calls made one after the other."""
    took = []
    for text in texts:
        begun = time.perf_counter()
        await send(text)
        took.append(1e3 * (time.perf_counter() - begun))
    return took


async def together(send: Send, texts: list[str], concurrency: int) -> tuple[float, float]:
    """(calls a second, CPU milliseconds a call) with so many on their way at a time."""
    left = iter(texts)

    async def worker() -> None:
        for text in left:
            await send(text)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - begun
    return len(texts) / seconds, 1e3 * (time.process_time() - cpu) / len(texts)


async def sweeps(url: str, given: argparse.Namespace) -> dict[str, Measured]:
    """Every client, in turns; each sweep makes calls that no earlier one has made."""
    found = {name: Measured([], [], []) for name in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        async with all_clients(url, Path(folder), given.concurrency) as clients:
            for sweep in range(given.sweeps + 1):
                one = [f"alone {sweep} {i}" for i in range(given.calls // 10)]
                many = [f"together {sweep} {i}" for i in range(given.calls)]
                for name, send in clients.items():
                    took = await alone(send, one)
                    rate, cpu = await together(send, many, given.concurrency)
                    if sweep:  # the first one opens connections and loads code
                        found[name].alone_ms.extend(took)
                        found[name].calls_per_second.append(rate)
                        found[name].cpu_ms.append(cpu)
    return found


async def held(url: str) -> tuple[float, float]:
    """(KiB a call, seconds until all are held) of calls that are in flight at once through the whole executor."""
    with tempfile.TemporaryDirectory() as folder:
        async with executor(url, Path(folder), IN_FLIGHT) as send, aiohttp.ClientSession() as session:
            await send("warm")
            before, begun = resident(), time.perf_counter()
            calls = [asyncio.create_task(send(f"{i} {HOLD}")) for i in range(IN_FLIGHT)]
            while (await (await session.get(f"{url}/held")).json()) < IN_FLIGHT:
                await asyncio.sleep(0.05)
            seconds, grown = time.perf_counter() - begun, 1024 * (resident() - before)
            await session.get(f"{url}/let_go")
            await asyncio.gather(*calls)
    return grown / IN_FLIGHT, seconds


async def measure(given: argparse.Namespace) -> None:
    """Prints the table."""
    async with served("benchmarks.executor") as url:
        found = await sweeps(url, given)
        kib, seconds = await held(url)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"openai {openai.__version__}, aiohttp {aiohttp.__version__}; prompts of {len(PROMPT)} and replies of "
        f"{len(REPLY)} characters; {given.concurrency} at once; medians of {given.sweeps} sweeps of {given.calls}"
    )
    header = (
        "client",
        "ms of a call alone",
        "more than bare",
        "calls/s",
        "CPU ms a call",
        "calls/s of one core",
        "of bare",
    )
    bare, rows = found[CLIENTS[0]], []
    for name, m in found.items():
        ms, cpu = statistics.median(m.alone_ms), statistics.median(m.cpu_ms)
        rows.append(
            (
                *(name, f"{ms:.2f}", f"{ms - statistics.median(bare.alone_ms):+.2f}"),
                *(f"{statistics.median(m.calls_per_second):.0f}", f"{cpu:.2f}", f"{1e3 / cpu:.0f}"),
                f"{statistics.median(bare.cpu_ms) / cpu:.2f}",
            )
        )
    print(table(header, rows))
    print(f"\n{IN_FLIGHT} calls in flight through the executor: {kib:.0f} KiB each, all of them after {seconds:.1f} s")
    if given.json_out:
        clients = {name: m._asdict() for name, m in found.items()}
        given.json_out.write_text(
            json.dumps({"clients": clients, "kib_in_flight": kib, "seconds": seconds}, indent=1) + "\n"
        )


def main() -> None:
    """Measures, or serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=5)
    parser.add_argument("--json_out", type=Path)
    given = parser.parse_args()
    if given.serve:
        serve()
    else:
        asyncio.run(measure(given))


if __name__ == "__main__":
    main()
