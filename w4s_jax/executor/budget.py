"""Hard caps on USD, tokens, calls and seconds, which are never passed.

upper bound of a call → **Budget.acquire** → send → settle to the actual cost

Money is reserved before a call is sent, at an upper bound of its cost. A call
that would fit but for reservations that are still open waits for them to
settle, first come first served; one that cannot fit any more is refused. An
attempt of unknown fate stays booked at its full reservation. The vendor's own
count can be larger than our bound only if it bills tokens that nobody asked
for; then what it says is booked.

All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from w4s_jax.executor.prices import CallCost
from w4s_jax.types import BudgetExceededError, InputError

_ROUNDING_USD = 1e-9
"""Floats that add up to a cap in theory may pass it by less than this in practice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caps:
    """The most that a run may spend, earlier processes of the same run included.

    Example:
        >>> Caps(usd=0.5).calls
        inf
    """

    usd: float | None = None
    """None: nobody said; refused by a paid executor. `inf` is said aloud."""
    tokens: float = math.inf
    calls: float = math.inf
    """Attempts sent, those that failed included."""
    seconds: float = math.inf
    """Wall clock."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value >= 0:
                raise InputError(f"--budget_{field.name}={value} is not a cap; give a number >= 0, or inf")


class Spent(NamedTuple):
    """What a run has spent."""

    usd: float = 0.0
    tokens: int = 0
    calls: int = 0
    seconds: float = 0.0


class Reservation:
    """A part of the budget held for one attempt: a context that books it in full unless it was settled."""

    def __init__(self, budget: Budget, cost: CallCost) -> None:
        self.cost = cost
        self._budget = budget
        self._open = True

    def settle(self, actual: CallCost) -> None:
        """Replaces the reservation by what the attempt did cost; once."""
        if self._open:
            self._open = False
            self._budget.book(self.cost, actual)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.settle(self.cost)


class Budget:
    """Keeps what is spent and what is reserved below the caps."""

    def __init__(self, caps: Caps, *, spent: Spent | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts from what earlier processes of the run have spent.

        Args:
            caps: The most that may be spent.
            spent: As the ledger has it; None for a new run.
            clock: Seconds, monotonic.
        """
        self.caps = caps
        self._usd_cap = math.inf if caps.usd is None else caps.usd + _ROUNDING_USD
        self._usd, self._tokens, self._calls, self._seconds = spent or Spent()
        self._reserved_usd, self._reserved_tokens, self._reserved_calls = 0.0, 0, 0
        self._clock = clock
        self._start = clock()
        self._waiting: collections.deque[tuple[CallCost, asyncio.Future[Reservation]]] = collections.deque()

    @property
    def spent(self) -> Spent:
        """What is booked, without open reservations."""
        return Spent(self._usd, self._tokens, self._calls, self._seconds + self._clock() - self._start)

    @property
    def reserved(self) -> CallCost:
        """What is held for attempts that are on their way."""
        return CallCost(self._reserved_usd, self._reserved_tokens, self._reserved_calls)

    @property
    def seconds_left(self) -> float:
        """Seconds until the cap on time; `inf` without one."""
        return self.caps.seconds - self.spent.seconds

    def check_seconds(self) -> None:
        """Raises BudgetExceededError where the cap on time is reached."""
        spent = self.spent.seconds
        if spent >= self.caps.seconds:
            raise _exceeded("seconds", f"{spent:.0f}", f"{self.caps.seconds:.6g}", "more time")

    async def acquire(self, cost: CallCost) -> Reservation:
        """Holds `cost`, waiting for open reservations to settle where only they are in the way.

        Args:
            cost: An upper bound of one attempt.

        Raises:
            BudgetExceededError: It cannot fit any more; nothing is held.
        """
        self._refuse(cost)
        if not self._waiting and self._fits(cost):
            return self._hold(cost)
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().settle(CallCost())
            raise

    def book(self, held: CallCost, actual: CallCost) -> None:
        """Books `actual` in place of a reservation of `held`, and lets in those who waited for the rest."""
        self._reserved_usd -= held.usd
        self._reserved_tokens -= held.tokens
        self._reserved_calls -= held.calls
        if not self._reserved_calls:
            self._reserved_usd = 0.0
        self._usd += actual.usd
        self._tokens += actual.tokens
        self._calls += actual.calls
        self._admit()

    def _hold(self, cost: CallCost) -> Reservation:
        self._reserved_usd += cost.usd
        self._reserved_tokens += cost.tokens
        self._reserved_calls += cost.calls
        return Reservation(self, cost)

    def _fits(self, cost: CallCost) -> bool:
        return (
            self._usd + self._reserved_usd + cost.usd <= self._usd_cap
            and self._tokens + self._reserved_tokens + cost.tokens <= self.caps.tokens
            and self._calls + self._reserved_calls + cost.calls <= self.caps.calls
        )

    def _admit(self) -> None:
        while self._waiting:
            cost, future = self._waiting[0]
            if not future.done():
                try:
                    self._refuse(cost)
                except BudgetExceededError as error:
                    future.set_exception(error)
                else:
                    if not self._fits(cost):
                        return
                    future.set_result(self._hold(cost))
            self._waiting.popleft()

    def _refuse(self, cost: CallCost) -> None:
        """Raises where `cost` would not fit even if every open reservation came to nothing."""
        self.check_seconds()
        spent = self.spent
        if spent.usd + cost.usd > self._usd_cap:
            raise _exceeded("usd", f"{spent.usd:.6f}", f"{self.caps.usd:.6g}", f"up to {cost.usd:.6f} USD")
        if spent.tokens + cost.tokens > self.caps.tokens:
            raise _exceeded("tokens", f"{spent.tokens}", f"{self.caps.tokens:.0f}", f"up to {cost.tokens}")
        if spent.calls + cost.calls > self.caps.calls:
            raise _exceeded("calls", f"{spent.calls}", f"{self.caps.calls:.0f}", f"{cost.calls}")


def _exceeded(name: str, spent: str, cap: str, needed: str) -> BudgetExceededError:
    return BudgetExceededError(
        f"--budget_{name}={cap} leaves no room: spent {spent}, the next call needs {needed}; "
        f"raise --budget_{name} and run the same command again: it resumes and buys nothing twice"
    )
