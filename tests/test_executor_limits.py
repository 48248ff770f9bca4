"""Rates and waits, on a clock of the test's own."""

import asyncio
import random

import pytest

from w4s_jax.executor.limits import Backoff, RateLimiter
from w4s_jax.types import InputError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        await asyncio.sleep(0)
        self.now += seconds


def most_in_a_minute(admitted):
    """The largest sum in any half-open window of 60 s, by trying the window that starts at each."""
    return max(sum(amount for at, amount in admitted if start <= at < start + 60) for start, _ in admitted)


async def test_no_minute_has_more_requests_than_allowed():
    clock, admitted = Clock(), []
    limiter = RateLimiter(requests_per_minute=10, clock=clock, sleep=clock.sleep)
    for _ in range(45):
        await limiter.admit(1)
        admitted.append((clock.now, 1))
        clock.now += random.Random(len(admitted)).random() * 3
    assert most_in_a_minute(admitted) <= 10
    assert clock.now < 5 * 60 + 30  # and no more time is lost than that takes


async def test_no_minute_has_more_tokens_than_allowed():
    clock, admitted, draw = Clock(), [], random.Random(0)
    limiter = RateLimiter(tokens_per_minute=1000, clock=clock, sleep=clock.sleep)
    for _ in range(60):
        tokens = draw.randrange(1, 400)
        await limiter.admit(tokens)
        admitted.append((clock.now, tokens))
    assert most_in_a_minute(admitted) <= 1000


async def test_tokens_that_were_not_used_are_given_back():
    clock = Clock()
    limiter = RateLimiter(tokens_per_minute=1000, clock=clock, sleep=clock.sleep)
    (await limiter.admit(900)).tokens = 100
    await limiter.admit(900)
    assert clock.now == 0.0


async def test_a_call_above_a_minutes_tokens_goes_alone():
    clock = Clock()
    limiter = RateLimiter(tokens_per_minute=100, clock=clock, sleep=clock.sleep)
    await limiter.admit(1)
    await limiter.admit(10**6)
    assert clock.now == pytest.approx(60.0)


async def test_who_came_first_goes_first():
    clock, order = Clock(), []
    limiter = RateLimiter(requests_per_minute=2, clock=clock, sleep=clock.sleep)

    async def one(name):
        await limiter.admit(1)
        order.append(name)

    await asyncio.gather(*(one(i) for i in range(9)))
    assert order == list(range(9))


async def test_without_limits_nothing_waits():
    assert await RateLimiter().admit(10**9) is None


def test_a_limit_that_lets_nothing_through_is_refused():
    with pytest.raises(InputError, match="requests_per_minute=0"):
        RateLimiter(requests_per_minute=0)


def test_waits_double_up_to_the_longest_and_jitter_within_a_half():
    backoff = Backoff(initial_seconds=1.0, factor=2.0, max_seconds=10.0)
    for attempt, whole in enumerate([1, 2, 4, 8, 10, 10, 10], start=1):
        wait = backoff.delay("key", attempt=attempt, seed=0, retry_after=None)
        assert whole / 2 <= wait < whole


def test_jitter_is_seeded_and_unlike_for_unlike_calls():
    def wait(key, seed):
        return Backoff().delay(key, attempt=1, seed=seed, retry_after=None)

    assert wait("a", 0) == wait("a", 0)
    assert len({wait("a", 0), wait("a", 1), wait("b", 0)}) == 3


def test_a_wait_that_the_server_asks_for_is_waited_out_in_full():
    wait = Backoff(initial_seconds=1.0).delay("key", attempt=9, seed=0, retry_after=20.0)
    assert 20.0 < wait <= 21.0
