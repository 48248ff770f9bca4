"""Scripted policy, sandbox, executor and task for the rollout tests: no process, no network, no model.

A workflow's code says in comments what it does: `# right 0 2` (items answered rightly),
`# raise KeyError: x`, `# timeout`, `# ask 3 hello` (calls of the executor), `# answer …`.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hashlib
import random
import re

from w4s_jax.prompts import parse_action, replace_code
from w4s_jax.types import (
    BudgetExceededError,
    CallRefusedError,
    ChatReply,
    Context,
    ExecutorError,
    Grade,
    InputError,
    Item,
    LLMCall,
    Message,
    ProgramRun,
    RunStatus,
    Sample,
    SandboxError,
    StopReason,
    Usage,
    Workflow,
    WorkflowRun,
)

END = 0


def code(*lines):
    return "\n".join([*(f"# {line}" for line in lines), "def solver(agent, task):", "    return {'answer': task}"])


def workflow(*lines):
    return Workflow(name="w", code=code(*lines))


def action(*lines, analysis="because"):
    return f"{analysis}\n```python\n{code(*lines)}\n```"


def number(*what):
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big")


class FakeTask:
    name = "fake"
    description = "answer with the number"
    metric = "accuracy"
    scratch_bytes = 0
    rule = ""
    packages = ()

    def __init__(self, size=4, seeds=(("right 0",), ("right 0 1",)), name="fake"):
        self.name = name
        self.all_items = tuple(Item(id=f"{name}/{i}", question=str(i), target=str(i)) for i in range(size))
        self.seeds = seeds

    def items(self, split):
        return self.all_items

    async def grade(self, item, answer, sandbox):
        return Grade(1.0) if answer == item.target else Grade(0.0, "another number")

    def seed_workflows(self):
        return tuple(Workflow(name=f"seed{i}", code=code(*lines)) for i, lines in enumerate(self.seeds))


@dataclasses.dataclass
class FakeSandbox:
    """Reads the comments; waits a random while where `jitter` (seconds) is given."""

    jitter: float = 0.0
    failures: int = 0
    """Runs that fail by us before any succeeds."""
    name: str = "fake"

    def __post_init__(self):
        self.runs = []
        self.running = self.most_running = 0

    async def run_workflow(self, workflow, given, ask, limits):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            self.runs.append((workflow.code, given.question))
            await asyncio.sleep(self.jitter * random.random())
            if self.failures:
                self.failures -= 1
                raise SandboxError("the zygote died")
            return await self._interpret(workflow.code, given.question, ask)
        finally:
            self.running -= 1

    async def _interpret(self, text, question, ask):
        answer = "wrong"
        for line in re.findall(r"^# (.+)$", text, re.MULTILINE):
            word, _, rest = line.partition(" ")
            if word == "raise":
                return WorkflowRun(status=RunStatus.EXCEPTION, error=rest, traceback=f"line 1\n{rest}", seconds=1.0)
            if word == "timeout":
                return WorkflowRun(status=RunStatus.TIMEOUT, error="60 seconds of wall clock are over")
            if word == "answer":
                answer = ast.literal_eval(rest)
            if word == "right" and question in rest.split():
                answer = question
            if word == "ask":
                count, _, words = rest.partition(" ")
                for _ in range(int(count)):
                    call = LLMCall(
                        messages=(Message(role="user", content=f"{question} {words}"),),
                        temperature=0.5, n=1, json_mode=False,
                    )  # fmt: skip
                    try:
                        answer = (await ask(call))[0]
                    except CallRefusedError as error:
                        return WorkflowRun(status=RunStatus.EXCEPTION, error=f"CallRefusedError: {error}")
        return WorkflowRun(status=RunStatus.OK, answer=answer, seconds=1.0)

    async def run_program(self, code, limits):
        return ProgramRun(status=RunStatus.OK)


@dataclasses.dataclass
class FakeExecutor:
    """Answers with the first word of the last message and its sample index; 0.25 USD a call."""

    budget_calls: int | None = None
    broken_for: tuple[str, ...] = ()
    """First words that it cannot be reached for."""
    jitter: float = 0.0
    model: str = "fake"
    simulated: bool = True

    def __post_init__(self):
        self.seen = []

    async def complete(self, request, context):
        if self.budget_calls is not None and len(self.seen) >= self.budget_calls:
            raise BudgetExceededError("budget_calls: no call is left")
        self.seen.append((request, context))
        await asyncio.sleep(self.jitter * random.random())
        word = request.messages[-1].content.split()[0]
        if word in self.broken_for:
            raise ExecutorError("the executor stayed unreachable")
        usage = Usage(prompt_tokens=7, completion_tokens=3)
        return ChatReply(texts=(word,) * request.n, finish_reasons=("stop",) * request.n, usage=usage, usd=0.25)


class PlainTemplate:
    """The facts of a state in one message."""

    def opening(self, state):
        text = f"open {state.turn} {state.current.workflow.name} {state.current.feedback} {state.best_score}"
        return (Message(role="user", content=text),)

    def after(self, state, previous):
        changed = state.current is not previous.current
        return (Message(role="user", content=f"{'chosen' if changed else 'all skipped'} {state.current.feedback}"),)

    def edit(self, description, workflow):
        return (Message(role="user", content=f"edit {description} {workflow.name} {workflow.code}"),)

    def repair(self, error, traceback):
        return (Message(role="user", content=f"repair {error} {traceback}"),)

    def parse(self, text, name):
        return parse_action(text, name)

    def replace_code(self, text, code):
        return replace_code(text, code)


def encode(text):
    return tuple(ord(c) for c in text)


@dataclasses.dataclass
class FakePolicy:
    """Samples what `script(context, key)` says; one id a character."""

    script: object
    jitter: float = 0.0
    fits: int = 1_000_000
    """Longest prompt in ids."""
    name: str = "scripted"

    def __post_init__(self):
        self.keys = []
        self.contexts = []
        self.encoded = []

    def open(self, messages):
        ids = tuple(i for m in messages for i in (*encode(m.content), END))
        return Context(messages=tuple(messages), prompt_ids=self._fitting(ids))

    def extend(self, context, action, messages):
        more = self.open(messages).prompt_ids
        said = Message(role="assistant", content=action.text)
        ids = self._fitting((*context.prompt_ids, *action.ids, *more))
        return Context(messages=(*context.messages, said, *messages), prompt_ids=ids)

    def encode_action(self, text):
        self.encoded.append(text)
        return Sample(ids=(*encode(text), END), logprobs=(), text=text, stop=StopReason.END_OF_TURN)

    async def sample(self, context, keys, options):
        self.keys += keys
        self.contexts.append(context)
        await asyncio.sleep(self.jitter * random.random())
        samples = []
        for key in keys:
            text = self.script(context, key)
            ids = (*encode(text), END)
            logprobs = tuple(-(number(key, i) % 1000) / 997 for i in range(len(ids)))
            samples.append(Sample(ids=ids, logprobs=logprobs, text=text, stop=StopReason.END_OF_TURN))
        return samples

    def _fitting(self, ids):
        if len(ids) > self.fits:
            raise InputError(f"prompt of {len(ids)} tokens exceeds {self.fits}")
        return ids


def lively(context, key):
    """An action that depends on the whole context and key: good, bad, broken, unreadable or mended."""
    draw = number(context.messages, key)
    if draw % 5 == 0:
        return "no block at all"
    if draw % 5 == 1:
        return action(f"raise ValueError: {draw % 97}")
    if draw % 5 == 2:
        return action("ask 2 please")
    return action("right " + " ".join(str(i) for i in range(4) if draw >> (8 + i) & 1), f"seen {draw % 11}")
