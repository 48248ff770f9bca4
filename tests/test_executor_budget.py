"""Caps are never passed, at any load and with any fate of an attempt."""

import asyncio
import math
import random

import pytest

from w4s_jax.executor.budget import Budget, Caps, Spent
from w4s_jax.executor.prices import CallCost
from w4s_jax.types import BudgetExceededError, InputError


@pytest.mark.parametrize("seed", range(30))
async def test_no_cap_is_passed_by_500_calls_at_once(seed):
    draw = random.Random(seed)
    usd, tokens, count = draw.random() * 3, draw.randrange(150_000), draw.randrange(600)
    calls = [
        (
            draw.random() * 0.01,  # bound, USD
            draw.randrange(500),  # bound, tokens
            draw.choice(["settle", "unknown", "fault"]),
            draw.random(),  # actual share of the bound
            draw.randrange(4),  # turns of the loop that it takes
        )
        for _ in range(500)
    ]
    budget = Budget(Caps(usd=usd, tokens=tokens, calls=count))
    billed = []  # kept apart from the code: what a vendor would bill at worst

    async def one(bound_usd, bound_tokens, fate, share, turns):
        try:
            reservation = await budget.acquire(CallCost(bound_usd, bound_tokens, 1))
        except BudgetExceededError:
            return
        with reservation:
            for _ in range(turns):
                await asyncio.sleep(0)
            if fate == "settle":
                billed.append((bound_usd * share, int(bound_tokens * share)))
                reservation.settle(CallCost(*billed[-1], 1))
            elif fate == "fault":
                billed.append((0.0, 0))
                reservation.settle(CallCost(0, 0, 1))
            else:
                billed.append((bound_usd, bound_tokens))

    await asyncio.gather(*(one(*call) for call in calls))
    assert math.fsum(b[0] for b in billed) <= usd + 1e-9
    assert sum(b[1] for b in billed) <= tokens
    assert len(billed) <= count
    assert budget.spent.usd == pytest.approx(math.fsum(b[0] for b in billed))
    assert budget.spent.tokens == sum(b[1] for b in billed)
    assert budget.reserved == (0.0, 0, 0)


async def test_calls_that_only_reservations_keep_out_wait_and_are_served_in_order():
    budget = Budget(Caps(usd=1.0))
    first = await budget.acquire(CallCost(0.9, 0, 1))
    served = []

    async def later(name, usd):
        with await budget.acquire(CallCost(usd, 0, 1)) as reservation:
            served.append(name)
            reservation.settle(CallCost(0.01, 0, 1))

    tasks = [asyncio.create_task(later(*call)) for call in (("big", 0.8), ("small", 0.05))]
    await asyncio.sleep(0)
    assert served == []
    first.settle(CallCost(0.1, 0, 1))
    await asyncio.gather(*tasks)
    assert served == ["big", "small"]


async def test_a_call_that_cannot_fit_any_more_is_refused_while_it_waits():
    budget = Budget(Caps(usd=1.0))
    first = await budget.acquire(CallCost(0.5, 0, 1))
    waiting = asyncio.create_task(budget.acquire(CallCost(0.6, 0, 1)))
    await asyncio.sleep(0)
    first.settle(CallCost(0.5, 0, 1))
    with pytest.raises(BudgetExceededError, match=r"--budget_usd=1 .*spent 0\.5.*needs up to 0\.6.*resumes"):
        await waiting


async def test_who_gives_up_waiting_holds_nothing():
    budget = Budget(Caps(calls=1))
    first = await budget.acquire(CallCost(0, 0, 1))
    waiting = asyncio.create_task(budget.acquire(CallCost(0, 0, 1)))
    await asyncio.sleep(0)
    first.settle(CallCost())  # lets the other in
    waiting.cancel()  # which gives up in the same turn
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.reserved == (0.0, 0, 0)
    assert (await budget.acquire(CallCost(0, 0, 1))).cost.calls == 1


async def test_an_unsettled_attempt_stays_booked_in_full():
    budget = Budget(Caps(usd=1.0))
    reservation = await budget.acquire(CallCost(0.25, 7, 1))
    with pytest.raises(KeyboardInterrupt), reservation:
        raise KeyboardInterrupt
    assert budget.spent[:3] == (0.25, 7, 1)


async def test_three_tenths_fit_into_three_times_a_tenth():
    budget = Budget(Caps(usd=0.3))
    for _ in range(3):
        (await budget.acquire(CallCost(0.1, 0, 1))).settle(CallCost(0.1, 0, 1))
    with pytest.raises(BudgetExceededError):
        await budget.acquire(CallCost(0.1, 0, 1))


async def test_what_earlier_processes_spent_counts():
    budget = Budget(Caps(usd=1.0, seconds=100), spent=Spent(0.9, 5, 3, 40.0), clock=lambda: 7.0)
    with pytest.raises(BudgetExceededError, match="budget_usd"):
        await budget.acquire(CallCost(0.2, 0, 1))
    assert budget.seconds_left == 60


async def test_the_cap_on_seconds_refuses_once_they_have_passed():
    now = [0.0]
    budget = Budget(Caps(seconds=10), clock=lambda: now[0])
    (await budget.acquire(CallCost(0, 0, 1))).settle(CallCost())
    now[0] = 10.0
    with pytest.raises(BudgetExceededError, match="budget_seconds=10"):
        await budget.acquire(CallCost(0, 0, 1))


@pytest.mark.parametrize("value", [-1, math.nan])
def test_a_cap_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="budget_tokens"):
        Caps(tokens=value)
