"""How fast calls go out: rate limits, and how long to wait before trying again.

MeteredExecutor → **RateLimiter.admit** → send → fault → **Backoff.delay** → send

Both are plain functions of the clock, seed and key that they are given, so that
a test replays them and a run repeats them.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import time
from collections.abc import Awaitable, Callable

from w4s_jax.types import InputError

Sleep = Callable[[float], Awaitable[object]]
Clock = Callable[[], float]

_WINDOW_SECONDS = 60.0
_SHORTEST_WAIT = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential waits with jitter.

    Example:
        >>> 0.25 <= Backoff().delay("key", attempt=1, seed=0, retry_after=None) <= 0.5
        True
    """

    initial_seconds: float = 0.5
    factor: float = 2.0
    max_seconds: float = 60.0

    def delay(self, key: str, *, attempt: int, seed: int, retry_after: float | None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        The exponential wait is multiplied by a number in [0.5, 1) that is a hash
        of (seed, key, attempt). A server's Retry-After is waited out in full, and
        the jitter comes on top, so that not everyone returns at once.
        """
        digest = hashlib.sha256(f"{seed}/{key}/{attempt}".encode()).digest()
        jitter = 0.5 + int.from_bytes(digest[:8], "big") / 2**65
        wait = min(self.initial_seconds * self.factor ** min(attempt - 1, 64), self.max_seconds) * jitter
        if retry_after is None:
            return wait
        return max(0.0, retry_after) + min(wait, self.initial_seconds)


class Admission:
    """The place of one call in the window; `tokens` may be corrected once they are known."""

    __slots__ = ("time", "tokens")

    def __init__(self, at: float, tokens: int) -> None:
        self.time = at
        self.tokens = tokens


class RateLimiter:
    """Never lets more than so many requests or tokens into any 60 seconds."""

    def __init__(
        self,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Starts with an empty window.

        Args:
            requests_per_minute: None for no limit.
            tokens_per_minute: Prompt and completion; upper bounds until a call has ended. None for no limit.
            clock: Seconds, monotonic.
            sleep: As `asyncio.sleep`.

        Raises:
            InputError: A limit is below 1.
        """
        for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None and limit < 1:
                raise InputError(f"{name}={limit} lets nothing through; give a number >= 1, or none")
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._window: collections.deque[Admission] = collections.deque()
        self._turn = asyncio.Lock()

    async def admit(self, tokens: int) -> Admission | None:
        """Waits, in order of arrival, until a call of at most `tokens` may be sent.

        A call whose bound alone is above a minute's tokens is sent when the window is empty.

        Returns:
            Its place in the window; None where there are no limits.
        """
        if self._requests is None and self._tokens is None:
            return None
        if self._tokens is not None:
            tokens = min(tokens, self._tokens)
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(wait)
            admission = Admission(self._clock(), tokens)
            self._window.append(admission)
            return admission

    def _wait(self, tokens: int) -> float:
        """Seconds until the oldest admission that is in the way leaves the window; 0 where none is."""
        now = self._clock()
        while self._window and self._window[0].time <= now - _WINDOW_SECONDS:
            self._window.popleft()
        full = self._requests is not None and len(self._window) >= self._requests
        if self._tokens is not None and not full:
            full = sum(a.tokens for a in self._window) + tokens > self._tokens
        return max(self._window[0].time + _WINDOW_SECONDS - now, _SHORTEST_WAIT) if full else 0.0
