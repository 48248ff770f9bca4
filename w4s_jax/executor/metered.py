"""The executor that everything else calls: cached, budgeted, rate-limited, retried, booked.

workflow's LLM call → **MeteredExecutor.complete** → cache → reserve → send (Backend) → settle → commit → reply

Equal calls in flight share one attempt. A reply is delivered after it is
committed with its cost, so no committed reply is bought again, and an attempt
whose fate is unknown keeps its full reservation. A call that was sent is
finished and kept even when nobody waits for it any more.

A simulated backend goes the same way, but for the row that is written before a
paid attempt is sent: what was in flight at a kill cost nothing and is drawn
again.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import math
import time
from typing import NoReturn, Self

from w4s_jax.concurrency import Flight, SingleFlight, finish_all
from w4s_jax.executor.adapter import JSON_TRIES, MAX_LESSONS
from w4s_jax.executor.base import (
    Backend,
    EmptyReplyFault,
    Fault,
    MalformedReplyFault,
    NotAcceptedFault,
    RefusedFault,
    UnreachableFault,
)
from w4s_jax.executor.budget import Budget, Reservation
from w4s_jax.executor.cache import MAX_PARTS, call_key, decode_reply, encode_reply, part_context
from w4s_jax.executor.ledger import IN_FLIGHT, REPLY, Call, CallStore
from w4s_jax.executor.limits import Backoff, Clock, RateLimiter, Sleep
from w4s_jax.executor.prices import CallCost, PriceTable, cost_of, usage_bound
from w4s_jax.types import (
    BudgetExceededError,
    CallContext,
    CallRefusedError,
    ChatReply,
    ChatRequest,
    ExecutorError,
    InputError,
    Usage,
)

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeteredOptions:
    """How calls are sent; nothing here changes a reply, but for `max_tokens`."""

    concurrency: int = 64
    """Most attempts on their way at once."""
    max_attempts: int = 20
    """Attempts of one call, the first included: some ten minutes of a service that refuses at once."""
    max_paid_attempts: int = 10
    """Of these, attempts that failed and were billed, or may have been."""
    max_unreachable: int = 8
    """Of these, attempts that found nobody there."""
    max_tokens: int = 1024
    """Completion tokens of a request that does not say: without a bound nothing can be reserved."""
    largest_max_tokens: int = 32_768
    """A request for more is refused: a workflow must not reserve the whole budget with one call."""
    largest_n: int = 64
    """The same for choices."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    backoff: Backoff = dataclasses.field(default_factory=Backoff)
    max_retry_after_seconds: float = 300.0
    """A server that asks to wait longer is given up."""
    drain_seconds: float = 20.0
    """How long a close waits for calls that were sent: their replies are paid."""
    seed: int = 0
    """Of the jitter."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_attempts", "max_paid_attempts", "max_unreachable", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is too low; give a number >= 1")
        if self.largest_n >= MAX_PARTS:
            raise InputError(f"largest_n={self.largest_n} is too high; give a number < {MAX_PARTS}")


class _History:
    """The attempts of one call: how they failed, and what they brought all the same."""

    def __init__(self, options: MeteredOptions) -> None:
        self._options = options
        self._failures = collections.Counter[str]()
        self._paid = 0
        self.attempt = 1
        """Number of the attempt that is on its way; what a model does not take is learnt beside that."""
        self.lessons = 0
        self.spare: ChatReply | None = None
        """The last reply that lacked the JSON that was asked for."""

    def add(self, fault: Fault) -> None:
        """Counts the fault that the attempt ended in."""
        self._failures[fault.kind] += 1
        self._paid += fault.billed_unknown or fault.usage is not None
        if isinstance(fault, MalformedReplyFault):
            self.spare = fault.reply

    @property
    def patience(self) -> int:
        """Number that the next wait grows with: a reply that came, but was of no use, is no sign of load."""
        useless = self._failures[MalformedReplyFault.kind] + self._failures[EmptyReplyFault.kind]
        return max(1, self._failures.total() - useless)

    @property
    def takes_any_text(self) -> bool:
        """Whether this attempt's reply is to be taken without its JSON."""
        return self._failures[MalformedReplyFault.kind] == JSON_TRIES - 1 or self.attempt == self._options.max_attempts

    @property
    def hopeless(self) -> bool:
        """Whether there were attempts enough."""
        return (
            self.attempt >= self._options.max_attempts
            or self._paid >= self._options.max_paid_attempts
            or self._failures[UnreachableFault.kind] >= self._options.max_unreachable
        )


class MeteredExecutor:
    """Implements `types.Executor` over a backend; a context manager that closes the backend, not the store."""

    def __init__(
        self,
        backend: Backend,
        store: CallStore,
        budget: Budget,
        prices: PriceTable | None = None,
        options: MeteredOptions | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Puts the parts together.

        Args:
            backend: The model's client.
            store: Ledger and cache; may be shared with other executors of this process.
            budget: Caps; made with `spent=store.spent`, and shared by all that share its caps.
            prices: By model.
            options: How calls are sent; None for the defaults.
            clock: Seconds, monotonic.
            sleep: As `asyncio.sleep`.

        Raises:
            InputError: The price is unknown, or a paid model has no cap in USD.
        """
        self.model, self.simulated = backend.model, backend.simulated
        options = options or MeteredOptions()
        self._backend, self._store, self._budget, self._options = backend, store, budget, options
        self.price = (prices or PriceTable()).of(backend.model, simulated=backend.simulated)
        if not backend.simulated and budget.caps.usd is None:
            raise InputError(
                f"model {backend.model!r} may cost money and there is no cap; give --budget_usd=<USD>, "
                f"or --budget_usd=inf to spend without one"
            )
        self._limiter = RateLimiter(
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
            clock=clock,
            sleep=sleep,
        )
        self._sleep = sleep
        self._slots = asyncio.Semaphore(options.concurrency)
        self._flights = SingleFlight[str, ChatReply]()
        self._one_by_one = False
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets what was sent arrive, for a while, ends the rest, which stays booked in full, and closes the backend."""
        await self._flights.close(self._options.drain_seconds)
        await self._backend.close()

    async def complete(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """Returns the reply, from the cache where it was bought before.

        A reply that was shared with an equal call in flight is `from_cache` as
        well: it costs its second reader nothing.

        Raises:
            BudgetExceededError: A cap leaves no room; nothing was sent.
            CallRefusedError: The text of the request is at fault; its author may see why.
            ExecutorError: The model stayed unreachable after all retries.
            InputError: The request is for another model.
            StoreError: The ledger cannot be read or written.
        """
        request, key = self._checked(request, context)
        flight = self._flights.find(key)
        if flight is not None:
            self._store.count_hit()
            return dataclasses.replace(await self._flights.join(flight), from_cache=True)
        kept = self._store.reply(key)
        if kept is not None:
            return decode_reply(kept)
        flight = self._flights.start(key, lambda flight: self._fly(flight, request, context, key))
        return await self._flights.join(flight)

    def _checked(self, request: ChatRequest, context: CallContext) -> tuple[ChatRequest, str]:
        if request.model != self.model:
            raise InputError(f"a call for model {request.model!r} reached the executor of {self.model!r}")
        options = self._options
        if request.max_tokens is None:
            request = dataclasses.replace(request, max_tokens=options.max_tokens)
        for name, value, most in (
            ("n", request.n, options.largest_n),
            ("max_tokens", request.max_tokens, max(options.largest_max_tokens, options.max_tokens)),
        ):
            if value is None or not 1 <= value <= most:
                raise CallRefusedError(f"{name}={value} is refused; ask for 1 to {most}")
        if not (math.isfinite(request.temperature) and request.temperature >= 0 and request.messages):
            raise CallRefusedError(
                f"temperature={request.temperature} with {len(request.messages)} messages is refused; "
                f"the temperature has to be finite and >= 0, and at least one message is needed"
            )
        return request, call_key(request, context)

    # --- flights ----------------------------------------------------------------

    async def _fly(self, flight: Flight[ChatReply], request: ChatRequest, context: CallContext, key: str) -> ChatReply:
        """Attempts until there is a reply, or no hope, or no patience; what was paid is delivered before giving up."""
        history = _History(self._options)
        try:
            return await self._persist(flight, request, context, key, history)
        except (BudgetExceededError, ExecutorError):
            if history.spare is None:
                raise
            spare = dataclasses.replace(history.spare, usd=self.price.usd(history.spare.usage))
            await self._store.keep(key, encode_reply(spare))
            return spare

    async def _persist(
        self, flight: Flight[ChatReply], request: ChatRequest, context: CallContext, key: str, history: _History
    ) -> ChatReply:
        while True:
            if self._one_by_one and request.n > 1:
                return await self._ask_one_by_one(request, context)
            try:
                return await self._attempt(flight, request, context, key, any_text=history.takes_any_text)
            except NotAcceptedFault as fault:
                history.lessons += 1
                self._one_by_one |= fault.parameter == "n"
                if history.lessons > MAX_LESSONS:
                    self._give_up(fault, history.attempt)
            except RefusedFault as fault:
                raise CallRefusedError(f"the model refuses this request: {fault}") from fault
            except Fault as fault:
                history.add(fault)
                self._budget.check_seconds()
                if history.hopeless or not self._worth_waiting(fault):
                    self._give_up(fault, history.attempt)
                self._warn(fault)
                await self._wait(flight, key, history.patience, fault)
                history.attempt += 1

    async def _wait(self, flight: Flight[ChatReply], key: str, patience: int, fault: Fault) -> None:
        if not flight.waiters:
            raise asyncio.CancelledError
        options = self._options
        delay = options.backoff.delay(key, attempt=patience, seed=options.seed, retry_after=fault.retry_after)
        await self._sleep(min(delay, max(self._budget.seconds_left, 0.0)))

    def _worth_waiting(self, fault: Fault) -> bool:
        return fault.retryable and (fault.retry_after or 0.0) <= self._options.max_retry_after_seconds

    def _warn(self, fault: Fault) -> None:
        """Warns of the first fault of its kind; the ledger counts them all."""
        if fault.kind not in self._warned:
            self._warned.add(fault.kind)
            _LOG.warning("model %r: %s (%s); repeated and counted, not reported again", self.model, fault.kind, fault)

    def _give_up(self, fault: Fault, attempts: int) -> NoReturn:
        raise ExecutorError(
            f"model {self.model!r} failed {attempts} time{'s' * (attempts > 1)}, last with {fault.kind}: {fault}"
        ) from fault

    async def _ask_one_by_one(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """One request a choice, each numbered, cached and booked by itself, for a model that does not take `n`."""
        one = dataclasses.replace(request, n=1)
        parts = [part_context(context, request.n, part) for part in range(request.n)]
        replies = await finish_all([self.complete(one, part) for part in parts])
        return ChatReply(
            texts=tuple(text for reply in replies for text in reply.texts),
            finish_reasons=tuple(reason for reply in replies for reason in reply.finish_reasons),
            usage=Usage(
                prompt_tokens=sum(reply.usage.prompt_tokens for reply in replies),
                cached_prompt_tokens=sum(reply.usage.cached_prompt_tokens for reply in replies),
                completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
            ),
            usd=sum(reply.usd for reply in replies),
            from_cache=all(reply.from_cache for reply in replies),
        )

    # --- one attempt ------------------------------------------------------------

    async def _attempt(
        self, flight: Flight[ChatReply], request: ChatRequest, context: CallContext, key: str, *, any_text: bool
    ) -> ChatReply:
        """Reserves, sends, settles and commits one attempt; `any_text` takes a reply that lacks its JSON.

        Leaving without a settlement books the reservation in full.
        """
        try:
            bound = usage_bound(request)
        except UnicodeEncodeError as error:
            raise CallRefusedError(f"a message is not valid Unicode: {error.reason}") from error
        cost = cost_of(bound, self.price)
        async with self._slots:
            admission = await self._limiter.admit(cost.tokens)
            with await self._budget.acquire(cost) as reservation:
                entry = self._entry(context, key, bound, cost)
                flight.lands = True  # it may reach the model, and is paid
                ticket = None if self.simulated else await self._store.begin(entry)
                try:
                    reply = await self._send(request, context, any_text=any_text)
                except Fault as fault:
                    self._book_fault(fault, entry, ticket, reservation)
                    flight.lands = False
                    raise
                except asyncio.CancelledError:
                    self._store.book(entry._replace(outcome="cancelled"), ticket=ticket)
                    raise
                reply = dataclasses.replace(reply, usd=self.price.usd(reply.usage))
                actual = cost_of(reply.usage, self.price)
                reservation.settle(actual)
                if admission is not None:
                    admission.tokens = actual.tokens
        entry = _with_usage(entry, reply.usage, reply.usd)._replace(
            outcome=REPLY, length_stops=reply.finish_reasons.count("length")
        )
        await self._store.book(entry, reply=encode_reply(reply), ticket=ticket)
        return reply

    async def _send(self, request: ChatRequest, context: CallContext, *, any_text: bool) -> ChatReply:
        try:
            return await self._backend.send(request, context)
        except MalformedReplyFault as fault:
            if not any_text:
                raise
            return fault.reply

    def _entry(self, context: CallContext, key: str, bound: Usage, cost: CallCost) -> Call:
        """The attempt as it is booked while nobody knows what it costs."""
        entry = Call(
            time=self._store.now(),
            purpose=context.purpose.value,
            model=self.model,
            item=context.item_id,
            workflow=context.workflow_digest,
            key=key,
            outcome=IN_FLIGHT,
            simulated=int(self.simulated),
        )
        return _with_usage(entry, bound, cost.usd)

    def _book_fault(self, fault: Fault, entry: Call, ticket: int | None, reservation: Reservation) -> None:
        """Books a failed attempt: in full where it may have been billed, else at its usage, else as a free call."""
        entry = entry._replace(outcome=fault.kind)
        if not fault.billed_unknown:
            usage = fault.usage or Usage()
            actual = cost_of(usage, self.price)
            entry = _with_usage(entry, usage, actual.usd)
            reservation.settle(actual)
        self._store.book(entry, ticket=ticket)


def _with_usage(entry: Call, usage: Usage, usd: float) -> Call:
    return entry._replace(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
        usd=usd,
    )
