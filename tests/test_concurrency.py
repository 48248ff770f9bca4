"""All work ends before an error is raised, and equal work runs once."""

import asyncio
import contextlib

import pytest

from w4s_jax.concurrency import SingleFlight, finish_all


async def test_every_coroutine_ends_before_the_first_error_in_order_is_raised():
    ended = []

    async def work(name, error=None):
        await asyncio.sleep(0.01 if error else 0.02)
        ended.append(name)
        if error:
            raise error

    with pytest.raises(ValueError, match=r"^b$"):
        await finish_all([work("a"), work("b", ValueError("b")), work("c", KeyError("c")), work("d")])
    assert sorted(ended) == ["a", "b", "c", "d"]


async def test_results_come_in_the_order_of_the_work():
    async def late(value, seconds):
        await asyncio.sleep(seconds)
        return value

    assert await finish_all([late(1, 0.01), late(2, 0.0)]) == [1, 2]


class Work:
    """Counts its runs and their ends."""

    def __init__(self, lands=False):
        self.lands, self.runs, self.ends, self.go = lands, 0, [], asyncio.Event()

    async def __call__(self, flight):
        self.runs += 1
        flight.lands = self.lands
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # as what has to be cleaned up
            self.ends.append("cancelled")
            raise
        self.ends.append("done")
        return 7

    async def wanted(self, flights):
        return await flights.join(flights.find("key") or flights.start("key", self))


async def started(coroutine):
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_equal_work_runs_once_and_again_when_it_has_landed():
    flights, work = SingleFlight(), Work()
    work.go.set()
    assert await finish_all([work.wanted(flights) for _ in range(5)]) == [7] * 5
    assert work.runs == 1
    assert flights.find("key") is None
    await work.wanted(flights)
    assert work.runs == 2


async def test_who_gives_up_does_not_take_the_work_from_another():
    flights, work = SingleFlight(), Work()
    first, second = await started(work.wanted(flights)), await started(work.wanted(flights))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await second == 7
    assert work.runs == 1


async def test_the_last_to_give_up_ends_the_work_and_waits_for_its_end():
    flights, work = SingleFlight(), Work()
    only = await started(work.wanted(flights))
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    assert work.ends == ["cancelled"]
    assert flights.find("key") is None


async def test_work_that_lands_ends_though_nobody_waits_and_is_joined_by_the_next():
    flights, work = SingleFlight(), Work(lands=True)
    only = await started(work.wanted(flights))
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    later = await started(work.wanted(flights))
    work.go.set()
    assert await later == 7
    assert (work.runs, work.ends) == (1, ["done"])


async def test_an_error_reaches_everyone_and_is_not_kept():
    flights = SingleFlight()

    async def broken(flight):
        await asyncio.sleep(0)
        raise ValueError("broken")

    waiting = [flights.join(flights.find(1) or flights.start(1, broken)) for _ in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["broken"] * 3
    assert flights.find(1) is None


async def test_a_close_lets_what_lands_arrive_and_ends_the_rest():
    flights, lands, rest = SingleFlight(), Work(lands=True), Work()
    waiting = [await started(flights.join(flights.start(name, w))) for name, w in (("lands", lands), ("rest", rest))]
    asyncio.get_running_loop().call_later(0.01, lands.go.set)
    await flights.close(patience=5)
    assert (lands.ends, rest.ends) == (["done"], ["cancelled"])
    assert await waiting[0] == 7
    with contextlib.suppress(asyncio.CancelledError):
        await waiting[1]
