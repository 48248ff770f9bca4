"""Work of one event loop: all of it finished before an error is raised, and equal work done once.

coroutines → **finish_all** → results; key → **SingleFlight** → one task → everyone who waits for it
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def finish_all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all coroutines, in order.

    Every one runs to its end before the first error, in order, is raised: what is in
    flight is paid, and is finished. A cancellation cancels all of them.
    """
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class Flight(Generic[T]):
    """One piece of work on its way, with everyone who waits for it."""

    __slots__ = ("lands", "task", "waiters")

    def __init__(self) -> None:
        self.task: asyncio.Task[T]
        self.waiters = 0
        """How many wait."""
        self.lands = False
        """Whether it goes on to its end even when nobody waits any more."""


class SingleFlight(Generic[K, T]):
    """Equal work that is wanted at the same moment runs once; used from one event loop.

    Example:
        >>> async def squared(flights, number):
        ...     async def work(flight):
        ...         print("computed once")
        ...         return number**2
        ...
        ...     return await flights.join(flights.find(number) or flights.start(number, work))
        >>> async def main():
        ...     flights = SingleFlight()
        ...     return await finish_all([squared(flights, 3), squared(flights, 3)])
        >>> asyncio.run(main())
        computed once
        [9, 9]
    """

    def __init__(self) -> None:
        self._flights: dict[K, Flight[T]] = {}

    def find(self, key: K) -> Flight[T] | None:
        """The work under this key that is on its way, to be joined; None where there is none."""
        return self._flights.get(key)

    def start(self, key: K, work: Callable[[Flight[T]], Coroutine[Any, Any, T]]) -> Flight[T]:
        """Starts work, which is given its own flight; join it in the same step of the loop."""
        flight = self._flights[key] = Flight[T]()
        flight.task = asyncio.create_task(work(flight))
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    async def join(self, flight: Flight[T]) -> T:
        """Waits for a flight; the last one to give up cancels it, unless it `lands`, and waits until it has ended.

        Raises:
            Exception: What the work raises, to all who wait for it.
        """
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.lands and not flight.task.done():
                self._forget(flight)
                flight.task.cancel()
                await asyncio.wait([flight.task])

    async def close(self, patience: float) -> None:
        """Lets what `lands` arrive, for `patience` seconds, then cancels the rest and waits for its end."""
        landing = [flight.task for flight in self._flights.values() if flight.lands]
        if landing:
            await asyncio.wait(landing, timeout=patience)
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _land(self, key: K, flight: Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled():
            flight.task.exception()  # looked at, so that nothing is logged where nobody waits any more

    def _forget(self, flight: Flight[T]) -> None:
        """Work that is being cancelled is joined by nobody."""
        for key in [key for key, known in self._flights.items() if known is flight]:
            del self._flights[key]
