"""One attempt of one item: serves a child's requests until its result, its end or its limit.

Child ─ {llm → ask | run_code → Pool.run_program | result} ─ End

It gives the child's slots back while a request is outstanding, and stops its clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from w4s_jax.sandbox import base, protocol
from w4s_jax.sandbox.link import START_SECONDS, Child, Link, ZygoteDied
from w4s_jax.sandbox.slots import Slots
from w4s_jax.types import CallRefusedError, Limits, LLMCall, ProgramRun, RunStatus

_CLOSED_SECONDS = 1.0
"""How long a child that closed its socket has until it is killed."""

_TURN_REQUESTS, _TURN_BYTES = 16, 1 << 16
"""Of one child, after which the others have their turn."""

RunProgram = Callable[[str, Limits], Awaitable[ProgramRun]]


class Ask(Protocol):
    """Answers a workflow's LLM calls, from the beginning again after `rewind`."""

    def rewind(self) -> None:
        """The workflow runs once more."""

    async def __call__(self, call: LLMCall) -> Sequence[str]:
        """As `types.AskLLM`."""


class End(NamedTuple):
    """How one attempt ended: a result frame, or a status and an error of the workflow's own."""

    frame: Mapping[str, Any] | None
    status: RunStatus
    error: str
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one attempt needs to know."""

    job: Mapping[str, Any]
    limits: Limits
    ask: Ask | None
    weight: int = 1
    """Slots it holds while it computes; all of them when it runs alone."""
    second_try: bool = True
    """Whether a timeout among others is repeated alone."""
    link: Link | None = None
    """The zygote that it has to run under: that of its workflow, which has a folder to write to."""


class _OutOfTimeError(Exception):
    """The child's own clock has run out."""


class Conversation:
    """The pool's side of one child's life; it owns the slots that were taken for it."""

    def __init__(self, child: Child, attempt: Attempt, slots: Slots, run_program: RunProgram) -> None:
        self._slots = slots
        self._run_program = run_program
        self._child = child
        self._attempt = attempt
        self._holds = True
        self._seconds = 0.0
        self._requests = 0
        self._programs = 0
        self._program_seconds = 0.0
        self._turn_at = 0

    async def run(self) -> End:
        """Holds the conversation; whatever happens, the child ends and the slots are free again.

        Raises:
            NoRoom: The machine had no room for the child.
            ZygoteDied: The zygote died, or could not guard the child.
        """
        end = None
        try:
            end = await self._talk()
            return end
        finally:
            self._child.end(finished=end is not None and end.frame is not None)
            if self._holds:
                self._slots.release(self._attempt.weight)

    async def _talk(self) -> End:
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._child.send(self._attempt.job)
                await self._child.start()
        except TimeoutError:
            raise ZygoteDied from None  # user code never ran: the failure is ours
        try:
            return await self._serve()
        except _OutOfTimeError:
            return self._end(RunStatus.TIMEOUT, f"the wall-clock limit of {self._attempt.limits.wall_seconds:g} s")
        except protocol.BreachError as error:
            return self._end(RunStatus.MALFORMED, f"the workflow broke the protocol: {error}")

    async def _serve(self) -> End:
        """Answers requests until there is a result, a limit or a death."""
        reply = None
        while (frame := await self._exchange(reply)) is not None:
            if frame.get("type") == "result":
                return self._end(RunStatus.OK, "", frame)
            self._requests += 1
            if self._requests > base.MAX_REQUESTS:
                return self._end(RunStatus.LIMIT, f"more than {base.MAX_REQUESTS} requests")
            if self._child.received > base.MAX_SENT:
                return self._end(RunStatus.LIMIT, f"more than {base.MAX_SENT >> 20} MiB of requests")
            try:
                request = self._parsed(frame)
            except CallRefusedError as error:
                reply = {"error": str(error)}
            else:
                del frame  # what was sent may be much larger than what was read out of it
                reply = await self._outside(request)
            await self._give_turn()
        return self._end(RunStatus.LIMIT, await self._cause_of_death())

    async def _give_turn(self) -> None:
        """Lets others run now and then: a child that sends without pause leaves the loop no moment of its own."""
        if self._requests % _TURN_REQUESTS == 0 or self._child.received - self._turn_at > _TURN_BYTES:
            self._turn_at = self._child.received
            await asyncio.sleep(0)

    def _parsed(self, frame: Mapping[str, Any]) -> LLMCall | protocol.CodeRequest:
        if self._attempt.ask is None:
            raise protocol.BreachError("a program asked for something")
        return protocol.parse_request(frame, self._attempt.limits)

    async def _exchange(self, reply: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Sends a reply and waits for the next frame, on the child's clock."""
        left = self._attempt.limits.wall_seconds - self._seconds
        if left <= 0:
            raise _OutOfTimeError
        begun = time.monotonic()
        try:
            async with asyncio.timeout(left):
                if reply is not None:
                    await self._child.send(reply)
                return await self._child.next_frame()
        except TimeoutError:
            raise _OutOfTimeError from None
        finally:
            self._seconds += time.monotonic() - begun

    async def _outside(self, request: LLMCall | protocol.CodeRequest) -> dict[str, Any]:
        """Answers a request with the slots given back, the clock stopped and, if it takes long, the child, too."""
        self._holds = False
        self._slots.release(self._attempt.weight)
        pause = asyncio.get_running_loop().call_later(base.PAUSE_SECONDS, self._child.pause)
        try:
            reply = await self._answer(request)
            await self._slots.acquire(self._attempt.weight)
        finally:
            pause.cancel()
        self._holds = True
        self._child.resume()
        return reply

    async def _answer(self, request: LLMCall | protocol.CodeRequest) -> dict[str, Any]:
        assert self._attempt.ask is not None
        try:
            if isinstance(request, protocol.CodeRequest):
                return await self._program(request)
            return {"texts": list(await self._attempt.ask(request))}
        except CallRefusedError as error:
            return {"error": str(error)}

    async def _program(self, request: protocol.CodeRequest) -> dict[str, Any]:
        """Runs a program within what is left to this run."""
        self._programs += 1
        if self._programs > base.MAX_PROGRAMS:
            raise CallRefusedError(f"more than {base.MAX_PROGRAMS} calls of execute_code; return an answer")
        most = base.MAX_PROGRAM_CLOCKS * self._attempt.limits.wall_seconds
        if self._program_seconds >= most:
            raise CallRefusedError(f"execute_code has taken {most:g} s in all; return an answer")
        ran = await self._run_program(request.code, _program_limits(self._attempt.limits, request.timeout))
        self._program_seconds += ran.seconds  # of its own clock: how long it waited for its turn is not its doing
        if ran.status is RunStatus.TIMEOUT:
            return {"error": f"the time limit of {request.timeout:g} s"}
        return {"value": ran.value} if ran.status is RunStatus.OK else {"error": ran.error}

    async def _cause_of_death(self) -> str:
        """Why a child ended without a result.

        Raises:
            ZygoteDied: The zygote did.
        """
        try:
            async with asyncio.timeout(_CLOSED_SECONDS):
                ended = await asyncio.shield(self._child.exited)
        except TimeoutError:
            return "the workflow closed its connection"
        limits = self._attempt.limits
        if os.WIFEXITED(ended.status):
            return f"the process ended itself with code {os.WEXITSTATUS(ended.status)} before a result"
        number = os.WTERMSIG(ended.status)
        if number == signal.SIGXCPU or ended.cpu_seconds >= math.ceil(limits.cpu_seconds):
            return f"the CPU limit of {limits.cpu_seconds:g} s"
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        return f"the process was ended by {name}, often a limit of memory ({limits.memory_bytes >> 20} MiB) or stack"

    def _end(self, status: RunStatus, error: str, frame: Mapping[str, Any] | None = None) -> End:
        return End(frame, status, error, self._seconds)


def _program_limits(limits: Limits, timeout: float) -> Limits:
    """`timeout` in CPU, which does not depend on the load, and twice that in wall clock."""
    return dataclasses.replace(limits, wall_seconds=2 * timeout, cpu_seconds=min(limits.cpu_seconds, timeout))
