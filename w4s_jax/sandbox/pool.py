"""The sandbox itself: runs each item in a child of its own and answers the child's requests.

run_workflow ─ slot ─ Link.spawn ─ Conversation ─ WorkflowRun

One event loop, no thread per item. A run that hit its wall clock, or whose zygote died, is
repeated alone; the replies it had already got are given to it again, so none is bought twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import resource
from collections.abc import Mapping, Sequence
from typing import Any

from w4s_jax.sandbox import base, protocol
from w4s_jax.sandbox.conversation import Attempt, Conversation, End
from w4s_jax.sandbox.isolation import Recipe
from w4s_jax.sandbox.link import Link, NoRoom, ZygoteDied
from w4s_jax.sandbox.slots import Slots
from w4s_jax.types import (
    AskLLM,
    InputError,
    Limits,
    LLMCall,
    ProgramRun,
    RunStatus,
    SandboxError,
    SolverInput,
    Workflow,
    WorkflowRun,
)

_LONE_ATTEMPTS = 3
"""Repetitions, alone, of a run whose zygote died, before the sandbox gives up."""
_DESCRIPTORS = 8 * base.MAX_CHILDREN
_SLOTS_A_WORKER = 2
"""Children that compute at a time for each worker: one starts while the pool reads another's result."""
_NO_ROOM_WAITS = (0.1, 0.3, 1.0, 3.0, 5.0, 5.0, 5.0, 10.0, 10.0, 20.0)
"""Seconds until a child that the machine had no room for is tried again."""
_LEAST_MEMORY = 64 << 20
"""Bytes of address space that an interpreter needs before it runs anything."""

_MOST_SECONDS = 1_000_000


class Pool:
    """A `Sandbox` over a bare zygote and, once code names a package, one that has imported the packages."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self.name = recipe.name
        ids = itertools.count(int.from_bytes(os.urandom(3), "big"))  # other pools of this machine begin elsewhere
        self._link = Link(recipe, ids)
        self._warm_link = Link(recipe.preloaded(), ids)
        self._named = recipe.mentions()
        self._restart = asyncio.Lock()
        self._slots = Slots(_SLOTS_A_WORKER * workers)
        self._children = asyncio.Semaphore(base.MAX_CHILDREN)
        self._closed = False

    async def start(self) -> None:
        """Starts the zygote.

        Raises:
            UnusableError: the back end does not work here.
        """
        _allow_descriptors()
        await self._link.start()

    @property
    def layers(self) -> tuple[str, ...]:
        """What every child puts on."""
        return self._link.layers

    def close(self) -> None:
        """Ends the zygotes with all children."""
        self._closed = True
        self._link.close()
        self._warm_link.close()

    async def run_workflow(self, workflow: Workflow, given: SolverInput, ask: AskLLM, limits: Limits) -> WorkflowRun:
        """Runs `solver` on one item in a fresh child.

        Args:
            workflow: its code defines `solver`.
            given: what the child gets of the item.
            ask: answers LLM calls; CallRefusedError is told to the workflow, any other error ends the run.
            limits: of this child; programs of `execute_code` get the same, with their own wall clock.

        Returns:
            The answer, or how the workflow failed by its own fault.

        Raises:
            SandboxError: the zygote kept dying, or is closed.
        """
        job = {
            "kind": "workflow",
            "code": workflow.code,
            "question": given.question,
            "entry_point": given.entry_point,
            "public_tests": list(given.public_tests),
        }
        async with self._children:
            end = await self._run(job, limits, ask)
        try:
            if end.frame is not None:
                return protocol.parse_workflow_result(end.frame, limits, end.seconds)
        except protocol.BreachError as error:
            return protocol.malformed(f"the workflow broke the protocol: {error}", end.seconds)
        return WorkflowRun(status=end.status, error=end.error, seconds=end.seconds)

    async def run_program(self, code: str, limits: Limits) -> ProgramRun:
        """Runs a Python program in a fresh child without LLM access.

        Raises:
            SandboxError: the zygote kept dying, or is closed.
        """
        return await self._run_program(code, limits)

    async def _run_program(self, code: str, limits: Limits, *, second_try: bool = True) -> ProgramRun:
        end = await self._run({"kind": "program", "code": code}, limits, None, second_try=second_try)
        try:
            if end.frame is not None:
                return protocol.parse_program_result(end.frame, limits)
        except protocol.BreachError as error:
            return ProgramRun(status=RunStatus.MALFORMED, error=f"the program broke the protocol: {error}")
        return ProgramRun(status=end.status, error=end.error)

    async def _run(self, job: Mapping[str, Any], limits: Limits, ask: AskLLM | None, *, second_try: bool = True) -> End:
        """One attempt among others; after a timeout one alone, after a zygote's death up to three alone."""
        _check(limits)
        replay = _Replay(ask) if ask else None
        attempt = Attempt(job=job, limits=limits, ask=replay)
        alone = dataclasses.replace(attempt, weight=self._slots.total)
        deaths = 0
        waits = iter(_NO_ROOM_WAITS)
        while True:
            try:
                end = await self._attempt(attempt)
            except NoRoom:
                wait = next(waits, None)
                if wait is None:
                    raise SandboxError(
                        f"sandbox {self.name!r}: this machine had no room for another process or descriptor for "
                        f"{sum(_NO_ROOM_WAITS):.0f} s; raise its limits (ulimit -n, -u), or lower --concurrency"
                    ) from None
                await asyncio.sleep(wait)
            except ZygoteDied:
                deaths += 1
                if deaths > _LONE_ATTEMPTS:
                    raise SandboxError(
                        f"the zygote of sandbox {self.name!r} died, or could not guard its child, {deaths} times"
                    ) from None
                attempt = alone
            else:
                if end.status is not RunStatus.TIMEOUT or attempt is alone or not second_try:
                    return end
                attempt = alone
            if replay:
                replay.rewind()

    async def _attempt(self, attempt: Attempt) -> End:
        await self._slots.acquire(attempt.weight)
        try:
            child = (await self._living_link(attempt.job["code"])).spawn(attempt.limits)
        except BaseException:
            self._slots.release(attempt.weight)
            raise
        return await Conversation(child, attempt, self._slots, self._program_of_workflow).run()

    async def _program_of_workflow(self, code: str, limits: Limits) -> ProgramRun:
        return await self._run_program(code, limits, second_try=False)

    async def _living_link(self, code: str) -> Link:
        """The zygote for this code, started where it never was or died."""
        link = self._warm_link if self._named.search(code) else self._link
        async with self._restart:
            if self._closed:
                raise SandboxError(f"sandbox {self.name!r} is closed; open it again")
            if link.dead:
                await link.start()
        return link


class _Replay:
    """An `ask` that remembers: a repeated run gets the replies that it has already got."""

    def __init__(self, ask: AskLLM) -> None:
        self._ask = ask
        self._past: list[tuple[str, Sequence[str]]] = []  # by digest: hundreds of waiting runs hold one each
        self._next = 0

    def rewind(self) -> None:
        """Begins again."""
        self._next = 0

    async def __call__(self, call: LLMCall) -> Sequence[str]:
        if self._next < len(self._past):
            past, texts = self._past[self._next]
            self._next += 1
            if past == call.digest:
                return texts
            del self._past[self._next - 1 :]  # the repeated run went another way
        texts = await self._ask(call)
        self._past.append((call.digest, texts))
        self._next = len(self._past)
        return texts


def _allow_descriptors() -> None:
    """Raises this process's soft limit of open files to what as many children as may be, and their calls, need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check(limits: Limits) -> None:
    """Raises InputError where no child could live under these limits."""
    if limits.memory_bytes < _LEAST_MEMORY:
        raise InputError(f"memory_bytes={limits.memory_bytes} of a sandboxed child; allowed: at least {_LEAST_MEMORY}")
    for name, value in (("wall_seconds", limits.wall_seconds), ("cpu_seconds", limits.cpu_seconds)):
        if not 0 < value < _MOST_SECONDS:
            raise InputError(f"{name}={value} of a sandboxed child; allowed: above 0 and below {_MOST_SECONDS}")
