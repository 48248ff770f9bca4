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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from w4s_jax.sandbox import base, protocol
from w4s_jax.sandbox.link import START_SECONDS, Child, ZygoteDied
from w4s_jax.sandbox.slots import Slots
from w4s_jax.types import AskLLM, CallRefusedError, Limits, ProgramRun, RunStatus

_CLOSED_SECONDS = 1.0
"""How long a child that closed its socket has until it is killed."""

RunProgram = Callable[[str, Limits], Awaitable[ProgramRun]]


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
    ask: AskLLM | None
    weight: int
    """Slots it holds while it computes; all of them when it runs alone."""


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

    async def run(self) -> End:
        """Holds the conversation; whatever happens, the child ends and the slots are free again.

        Raises:
            ZygoteDied: the zygote died, or could not guard the child.
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
                started = await self._child.started()
            if not started:
                raise ZygoteDied  # user code never ran: the failure is ours
            reply = None
            while (frame := await self._exchange(reply)) is not None:
                if frame.get("type") == "result":
                    return self._end(RunStatus.OK, "", frame)
                self._requests += 1
                if self._requests > base.MAX_REQUESTS:
                    return self._end(RunStatus.LIMIT, f"more than {base.MAX_REQUESTS} requests")
                reply = await self._outside(frame)
            return self._end(RunStatus.LIMIT, await self._cause_of_death())
        except TimeoutError:
            return self._end(RunStatus.TIMEOUT, f"the wall-clock limit of {self._attempt.limits.wall_seconds:g} s")
        except protocol.BreachError as error:
            return self._end(RunStatus.MALFORMED, f"the workflow broke the protocol: {error}")

    async def _exchange(self, reply: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Sends a reply and waits for the next frame, on the child's clock."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._attempt.limits.wall_seconds - self._seconds)):
                if reply is not None:
                    await self._child.send(reply)
                return await self._child.next_frame()
        finally:
            self._seconds += time.monotonic() - begun

    async def _outside(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a request with the slots given back and the clock stopped."""
        self._holds = False
        self._slots.release(self._attempt.weight)
        try:
            reply = await self._answer(frame)
        except CallRefusedError as error:
            reply = {"error": str(error)}
        await self._slots.acquire(self._attempt.weight)
        self._holds = True
        return reply

    async def _answer(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        ask = self._attempt.ask
        if ask is None or frame.get("type") not in ("llm", "run_code"):
            raise protocol.BreachError(f"an unknown request {str(frame.get('type'))[:40]!r}")
        if frame["type"] == "llm":
            return {"texts": list(await ask(protocol.parse_llm(frame)))}
        self._programs += 1
        if self._programs > base.MAX_PROGRAMS:
            raise CallRefusedError(f"more than {base.MAX_PROGRAMS} calls of execute_code; return an answer")
        request = protocol.parse_code_request(frame, self._attempt.limits)
        ran = await self._run_program(request.code, _program_limits(self._attempt.limits, request.timeout))
        return {"value": ran.value} if ran.status is RunStatus.OK else {"error": ran.error}

    async def _cause_of_death(self) -> str:
        """Why a child ended without a result.

        Raises:
            ZygoteDied: the zygote did.
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
    return dataclasses.replace(limits, wall_seconds=timeout, cpu_seconds=min(limits.cpu_seconds, timeout))
