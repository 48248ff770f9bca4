"""The sandbox itself: runs each item in a child of its own and answers the child's requests.

run_workflow ─ slot ─ Link.spawn ─ Conversation ─ WorkflowRun

One event loop, no thread per item. A run that hit its wall clock, or whose zygote died, is
repeated alone; the replies it had already got are given to it again, so none is bought twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import os
import resource
from collections.abc import Sequence

from w4s_jax.sandbox import base, protocol
from w4s_jax.sandbox.conversation import Attempt, Conversation, End
from w4s_jax.sandbox.isolation import Recipe
from w4s_jax.sandbox.link import Link, NoRoom, UnusableError, ZygoteDied
from w4s_jax.sandbox.slots import Slots
from w4s_jax.types import (
    AskLLM,
    CallRefusedError,
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
_MOST_SCRATCH = 1 << 30


class Pool:
    """A `Sandbox` over a bare zygote and, once code names a package, one that has imported the packages."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self.name = recipe.name
        self._recipe = recipe
        self._ids = itertools.count(int.from_bytes(os.urandom(3), "big"))  # other pools of the machine begin elsewhere
        self._link = Link(recipe, self._ids)
        self._warm_link = Link(recipe.preloaded(), self._ids)
        self._links = {self._link, self._warm_link}
        self._named = recipe.mentions()
        self._restart = asyncio.Lock()
        self._slots = Slots(_SLOTS_A_WORKER * workers)
        self._children = asyncio.Semaphore(base.MAX_CHILDREN)
        self._closed = False

    async def start(self) -> None:
        """Starts the zygote.

        Raises:
            UnusableError: The back end does not work here.
        """
        _allow_descriptors()
        try:
            await self._link.start()
        except NoRoom as error:
            raise UnusableError(f"sandbox {self.name!r} does not work here: {error}") from None

    @property
    def layers(self) -> tuple[str, ...]:
        """What every child puts on."""
        return self._link.layers

    def close(self) -> None:
        """Ends the zygotes with all children."""
        self._closed = True
        for link in list(self._links):
            link.close()

    async def run_workflow(self, workflow: Workflow, given: SolverInput, ask: AskLLM, limits: Limits) -> WorkflowRun:
        """Runs `solver` on one item in a fresh child.

        Args:
            workflow: Its code defines `solver`.
            given: What the child gets of the item.
            ask: Answers LLM calls; the workflow sees a CallRefusedError, any other error ends the run.
            limits: Of this child; programs of `execute_code` get the same, with their own wall clock.

        Returns:
            The answer, or how the workflow failed by its own fault.

        Raises:
            SandboxError: The zygote kept dying, or is closed.
            InputError: Limits under which nothing could run, or a scratch folder that this back end cannot give.
        """
        job = {
            "kind": "workflow",
            "code": workflow.code,
            "question": given.question,
            "entry_point": given.entry_point,
            "public_tests": list(given.public_tests),
        }
        async with self._children:
            end = await self._run(Attempt(job=job, limits=limits, ask=_Replay(ask)))
        try:
            if end.frame is not None:
                return protocol.parse_workflow_result(end.frame, limits, end.seconds)
        except protocol.BreachError as error:
            return protocol.malformed(f"the workflow broke the protocol: {error}", end.seconds)
        return WorkflowRun(status=end.status, error=end.error, seconds=end.seconds)

    async def run_program(self, code: str, limits: Limits) -> ProgramRun:
        """Runs a Python program in a fresh child without LLM access.

        Raises:
            SandboxError: The zygote kept dying, or is closed.
        """
        end = await self._run(Attempt(job={"kind": "program", "code": code}, limits=limits, ask=None))
        return self._program_run(end, limits)

    async def _program_of_workflow(self, link: Link, code: str, limits: Limits) -> ProgramRun:
        """One try; beside its workflow where that has a folder to write to."""
        attempt = Attempt(
            job={"kind": "program", "code": code},
            limits=limits,
            ask=None,
            second_try=False,
            link=link if limits.scratch_bytes else None,
        )
        return self._program_run(await self._run(attempt), limits)

    def _program_run(self, end: End, limits: Limits) -> ProgramRun:
        try:
            if end.frame is not None:
                return protocol.parse_program_result(end.frame, limits, end.seconds)
        except protocol.BreachError as error:
            broke = f"the program broke the protocol: {error}"
            return ProgramRun(status=RunStatus.MALFORMED, error=broke, seconds=end.seconds)
        return ProgramRun(status=end.status, error=end.error, seconds=end.seconds)

    async def _run(self, attempt: Attempt) -> End:
        """One attempt among others; after a timeout one alone, after a zygote's death up to three alone."""
        _check(attempt.limits)
        alone = dataclasses.replace(attempt, weight=self._slots.total)
        deaths, waits = 0, iter(_NO_ROOM_WAITS)
        while True:
            if attempt.ask:
                attempt.ask.rewind()
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
                if attempt.link:
                    raise  # that of its workflow, which begins again
                deaths += 1
                if deaths > _LONE_ATTEMPTS:
                    raise SandboxError(
                        f"the zygote of sandbox {self.name!r} died, or could not guard its child, {deaths} times"
                    ) from None
                attempt = alone
            else:
                if end.status is not RunStatus.TIMEOUT or attempt is alone or not attempt.second_try:
                    return end
                attempt = alone

    async def _attempt(self, attempt: Attempt) -> End:
        await self._slots.acquire(attempt.weight)
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.ExitStack() as until_spawned:
                until_spawned.callback(self._slots.release, attempt.weight)
                link = attempt.link or await self._link_for(attempt, stack)
                child = link.spawn(attempt.limits)
                until_spawned.pop_all()  # from here on the slots are the conversation's
            program = functools.partial(self._program_of_workflow, link)
            return await Conversation(child, attempt, self._slots, program).run()

    async def _link_for(self, attempt: Attempt, stack: contextlib.AsyncExitStack) -> Link:
        """The zygote for an attempt: one of its own where it may write files, else one that all share."""
        warm = bool(self._named.search(attempt.job["code"]))
        if attempt.limits.scratch_bytes:
            recipe = self._recipe.preloaded() if warm else self._recipe
            link = Link(recipe.with_scratch(attempt.limits.scratch_bytes), self._ids)
            self._check_open()
            self._links.add(link)
            stack.callback(self._links.discard, link)
            stack.push_async_callback(link.leave)
            await link.start()
            return link
        link = self._warm_link if warm else self._link
        async with self._restart:
            self._check_open()
            if link.dead:
                await link.start()
        return link

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError(f"sandbox {self.name!r} is closed; open it again")


class _Replay:
    """An `ask` that remembers: a repeated run gets the replies, and the refusals, that it has already got."""

    def __init__(self, ask: AskLLM) -> None:
        self._ask = ask
        self._past: list[tuple[str, Sequence[str] | CallRefusedError]] = []
        """By digest: hundreds of waiting runs hold such a list each."""
        self._next = 0

    def rewind(self) -> None:
        """Begins again."""
        self._next = 0

    async def __call__(self, call: LLMCall) -> Sequence[str]:
        if self._next < len(self._past) and self._past[self._next][0] != call.digest:
            del self._past[self._next :]  # the repeated run went another way
        if self._next == len(self._past):
            self._past.append((call.digest, await self._asked(call)))
        answer = self._past[self._next][1]
        self._next += 1
        if isinstance(answer, CallRefusedError):
            raise answer
        return answer

    async def _asked(self, call: LLMCall) -> Sequence[str] | CallRefusedError:
        try:
            return await self._ask(call)
        except CallRefusedError as error:
            return error


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
    if not 0 <= limits.scratch_bytes <= _MOST_SCRATCH:
        raise InputError(f"scratch_bytes={limits.scratch_bytes} of a sandboxed child; allowed: 0 to {_MOST_SCRATCH}")
    for name, value in (("wall_seconds", limits.wall_seconds), ("cpu_seconds", limits.cpu_seconds)):
        if not 0 < value < _MOST_SECONDS:
            raise InputError(f"{name}={value} of a sandboxed child; allowed: above 0 and below {_MOST_SECONDS}")
