"""What the tests of the front door share: a server of both models in a thread, and questions."""

import asyncio
import contextlib
import json
import re
import threading

from fakes import FakeServer, completion

from w4s_jax.workflows import load_seed

CODE = load_seed("direct").code
VOTE = load_seed("cot_sc").code
ROWS = [{"question": f"What is {i} + {i}?", "answer": 2 * i} for i in range(12)]
QUICK = {"num_candidates": 2, "sandbox_packages": (), "progress": False}
PRICES = {"writer": {"input": 1.0, "output": 2.0}, "solver": {"input": 0.1, "output": 0.2}}


def action(code):
    return f"It should be short.\n```python\n{code.strip()}\n```"


def written(turn):
    """A workflow that no other turn has: the seed under another comment."""
    return f"# turn {turn}\n{CODE}"


def both_models(body, headers, attempt):
    """`writer` and `gpt-4o` write workflows; any other model adds, and gets every third question wrong."""
    if body["model"] in ("writer", "gpt-4o"):
        return completion(action(written(headers["X-W4S-Sample"])), prompt=900)
    found = re.search(r"What is (\d+) \+ (\d+)\?", json.dumps(body["messages"]))
    value = int(found[1]) + int(found[2]) + (int(found[1]) % 3 == 0) if found else 33
    reply = json.dumps({"answer": value}) if "response_format" in body else f"Answer: {value}"
    return completion(*[reply] * body.get("n", 1))


@contextlib.contextmanager
def serving(script=both_models):
    """A server on loopback in a thread of its own, so that the test's loop may be held up."""
    server, ready = FakeServer(script), threading.Event()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def live():
        async with server:
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def asked(server, model):
    """Bodies that a model of the server got."""
    return [body for body, _ in server.requests if body["model"] == model]
