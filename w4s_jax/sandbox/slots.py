"""Who may run: a first-come first-served count that can be taken one or all at a time.

A child holds a slot while it computes and gives it back while it waits for the executor,
so hundreds wait and few run. A repeated run takes all slots: it runs alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator


class Slots:
    """A fair counting semaphore with weights."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._queue: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @contextlib.asynccontextmanager
    async def take(self, count: int) -> AsyncIterator[None]:
        """Holds `count` slots."""
        await self.acquire(count)
        try:
            yield
        finally:
            self.release(count)

    async def acquire(self, count: int) -> None:
        """Waits for `count` slots, in the order of asking."""
        if not self._queue and count <= self._free:
            self._free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(count)
            else:
                self._hand_out()  # it stood in the way, perhaps
            raise

    def release(self, count: int) -> None:
        """Gives slots back."""
        self._free += count
        self._hand_out()

    def _hand_out(self) -> None:
        while self._queue:
            count, turn = self._queue[0]
            if not turn.cancelled():
                if count > self._free:
                    return
                self._free -= count
                turn.set_result(None)
            self._queue.popleft()
