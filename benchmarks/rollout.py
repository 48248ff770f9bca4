"""How near is an evaluation to the latency of its calls? `python -m benchmarks.rollout`.

5 workflows × 128 items → {this project, 48 threads in the process} → one server → **seconds, longest chain**

The calls of one item follow one another, so nothing can end before its longest chain of
calls has: that is the floor. The server is the simulated one in a process of its own, with
the latency of a hosted model: time to the first token and time a token are log-normal
(medians 0.5 s and 16 ms, that is 62 tokens/s, σ 0.5 each), drawn by a hash of the request,
so that every way of running meets the same ones. This project runs each item in a guarded
child and keeps every reply; the other way is the one of the released code, a pool of 48
threads that `exec` the workflow in the process and call the service through a blocking
client, given all 640 items at once. Both must end with the same answers.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import openai

from benchmarks.executor import served
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import SAMPLE_HEADER, OpenAIBackend
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor, MeteredOptions
from w4s_jax.executor.prices import Price, PriceTable
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.model import SampleId
from w4s_jax.executor.simulator.server import ServerOptions, serve
from w4s_jax.rollout.answers import plain_answer
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.sandbox import open_sandbox
from w4s_jax.sandbox.child.agent import Agent
from w4s_jax.sandbox.protocol import parse_request
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import toy_task
from w4s_jax.types import (
    CallContext,
    ChatReply,
    ChatRequest,
    Item,
    ItemStatus,
    Limits,
    LLMCall,
    Purpose,
    Split,
    Workflow,
)

MODEL, MAX_TOKENS = "simulated", 400
SCALE, SIGMA = 2.0, 0.5
"""Of the simulator's latency (0.25 s and 8 ms a token)."""
THREADS = 48
BROKE = "(broke)"
STEPS = 'task + "\\nThink step by step. End with: Answer: <number>"'
WORKFLOWS = {
    "direct": """
def solver(agent, task):
    return {"answer": agent.call_llm(task + "\\nGive only the final number.")[0]}
""",
    "steps": f"""
def solver(agent, task):
    return {{"answer": agent.extract_answer_str(agent.call_llm({STEPS})[0])}}
""",
    "vote of 5": f"""
def solver(agent, task):
    answers = [agent.extract_answer_str(r) for r in agent.call_llm({STEPS}, temperature=0.8, num_of_response=5)]
    return {{"answer": max(answers, key=answers.count)}}
""",
    "critique": f"""
def solver(agent, task):
    said = agent.call_llm({STEPS})[0]
    for _ in range(2):
        ask = task + "\\nAn earlier answer:\\n" + said + "\\nFind the mistake. End with: Answer: <number>"
        said = agent.call_llm(ask)[0]
    return {{"answer": agent.extract_answer_str(said)}}
""",
    "program": """
def solver(agent, task):
    said = agent.call_llm(task + "\\nWrite Python code: def solution() that returns the answer.")[0]
    return {"answer": agent.execute_code(agent.extract_code_block(said))}
""",
}


class Ran(NamedTuple):
    """One way of running everything."""

    seconds: float
    answers: dict[tuple[str, str], object]
    """By workflow and item."""


def questions(count: int) -> tuple[SimulatedBackend, Any, Sequence[Item]]:
    """The executor, the task and its items."""
    task = toy_task("toy_units", sizes=SplitSizes(train=0, validation=count, test=0))
    return SimulatedBackend(tasks=[task]), task, task.items(Split.VALIDATION)


# --- the server -----------------------------------------------------------------


async def stand(count: int) -> None:
    """Serves until standard input ends."""
    backend, *_ = questions(count)
    async with serve(backend, options=ServerOptions(latency_scale=SCALE, latency_sigma=SIGMA)) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


# --- this project ---------------------------------------------------------------


class Chains:
    """An executor that adds up how long the calls of each item would take, and waits for none of them."""

    model, simulated = MODEL, True

    def __init__(self, backend: SimulatedBackend) -> None:
        self._backend = backend
        self.seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
        self.calls = 0

    async def complete(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """The reply, at once."""
        call = SampleId(context.repetition, context.sample_index)
        reply = self._backend.reply(request, call)
        self.seconds[context.workflow_digest, context.item_id] += SCALE * self._backend.seconds(
            request, call, reply, sigma=SIGMA
        )
        self.calls += 1
        return reply


async def evaluated(executor: Any, task: Any, items: Sequence[Item]) -> Ran:
    """All workflows on all items, as a turn of a rollout evaluates its candidates."""
    options = EvaluationOptions(concurrency=len(WORKFLOWS) * len(items), max_completion_tokens=MAX_TOKENS)
    async with open_sandbox("auto", packages=()) as sandbox:
        evaluator = Evaluator(executor, sandbox, options=options)
        begun = time.perf_counter()
        done = await asyncio.gather(
            *(
                evaluator.evaluate(
                    Workflow(name=name, code=code), task, items, split=Split.VALIDATION, purpose=Purpose.OPTIMISATION
                )
                for name, code in WORKFLOWS.items()
            )
        )
        seconds = time.perf_counter() - begun
    answers = {
        (name, outcome.item_id): BROKE if outcome.status is ItemStatus.BROKE else outcome.answer
        for name, evaluation in zip(WORKFLOWS, done, strict=True)
        for outcome in evaluation.outcomes
    }
    return Ran(seconds, answers)


async def ours(url: str, task: Any, items: Sequence[Item]) -> Ran:
    """With a ledger and a cache that start empty."""
    price = Price(input=0.15, cached_input=0.075, output=0.6)
    with tempfile.TemporaryDirectory() as folder:
        store = CallStore(Path(folder) / "calls.sqlite")
        options = MeteredOptions(concurrency=len(WORKFLOWS) * len(items), max_tokens=MAX_TOKENS)
        async with MeteredExecutor(
            OpenAIBackend(MODEL, base_url=url),
            store,
            Budget(Caps(usd=1e9), spent=store.spent),
            PriceTable({MODEL: price}),
            options,
        ) as executor:
            ran = await evaluated(executor, task, items)
        await store.close()
    return ran


# --- threads in the process -------------------------------------------------------


class InProcess:
    """The other side of an agent's channel: a blocking client, and `exec` for programs."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        self._earlier: collections.Counter[str] = collections.Counter()

    def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a request of the agent."""
        asked = parse_request(message, Limits())
        if isinstance(asked, LLMCall):
            return {"texts": self._ask(asked)}
        scope: dict[str, Any] = {}
        exec(asked.code, scope)
        return {"value": str(scope["solution"]())}

    def _ask(self, call: LLMCall) -> list[str]:
        number = self._earlier[call.digest]
        self._earlier[call.digest] += 1
        reply = self._client.chat.completions.create(
            model=MODEL,
            messages=[{"role": m.role, "content": m.content} for m in call.messages],
            temperature=call.temperature,
            max_tokens=MAX_TOKENS,
            n=call.n,
            extra_headers={SAMPLE_HEADER: f"0.{number}"},
        )
        return [choice.message.content or "" for choice in reply.choices]


def threads(url: str, items: Sequence[Item]) -> Ran:
    """Every item of every workflow in a pool of threads."""
    solvers = {}
    for name, code in WORKFLOWS.items():
        scope: dict[str, Any] = {}
        exec(code, scope)
        solvers[name] = scope["solver"]
    local = threading.local()

    def one(job: tuple[str, Item]) -> object:
        name, item = job
        if not hasattr(local, "client"):
            local.client = openai.OpenAI(api_key="none", base_url=url, max_retries=0)
        try:
            answer = solvers[name](Agent(InProcess(local.client)), item.question)["answer"]
        except Exception:  # noqa: BLE001 - whatever a workflow raises is its outcome
            return BROKE
        return str(plain_answer(answer))

    jobs = list(itertools.product(WORKFLOWS, items))
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(one, jobs))
    seconds = time.perf_counter() - begun
    return Ran(seconds, {(name, item.id): answer for (name, item), answer in zip(jobs, answers, strict=True)})


# --- comparing ----------------------------------------------------------------------


async def measure(given: argparse.Namespace) -> None:
    """Prints how long each way took."""
    backend, task, items = questions(given.items)
    chains = Chains(backend)
    wanted = await evaluated(chains, task, items)
    longest = max(chains.seconds.values())
    print(
        f"{os.cpu_count()} cores; {len(WORKFLOWS)} workflows × {len(items)} items, {chains.calls} calls; chains of "
        f"calls: {sum(chains.seconds.values()) / len(chains.seconds):.1f} s in the mean, {longest:.1f} s the longest"
    )
    print(f"the same with no latency, in the process: {wanted.seconds:.1f} s\n", flush=True)
    found: dict[str, list[Ran]] = {"this project": [], f"{THREADS} threads in the process": []}
    async with served("benchmarks.rollout", f"--items={given.items}") as url:
        for _ in range(given.sweeps):
            found["this project"].append(await ours(url, task, items))
        found[f"{THREADS} threads in the process"].append(await asyncio.to_thread(threads, url, items))
    for name, runs in found.items():
        for ran in runs:
            same = sum(ran.answers[key] == answer for key, answer in wanted.answers.items())
            print(
                f"{name}: {ran.seconds:.1f} s, {ran.seconds / longest:.2f} × the longest chain; "
                f"{same} of {len(wanted.answers)} answers as without latency"
            )
    ratio = found[f"{THREADS} threads in the process"][0].seconds / min(ran.seconds for ran in found["this project"])
    print(f"threads / this project: {ratio:.1f}")
    if given.json_out:
        seconds = {name: [ran.seconds for ran in runs] for name, runs in found.items()}
        given.json_out.write_text(json.dumps({"longest_chain": longest, "seconds": seconds}, indent=1) + "\n")


def main() -> None:
    """Measures, or serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--json_out", type=Path)
    given = parser.parse_args()
    asyncio.run(stand(given.items) if given.serve else measure(given))


if __name__ == "__main__":
    main()
