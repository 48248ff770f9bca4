"""Cached, reserved, retried, booked: the executor over a scripted back end."""

import asyncio
import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fakes import ACTUAL, BOUND, PRICES, FakeBackend, ask, echo, here, micro, reply, running

from w4s_jax.executor.base import (
    NotAcceptedFault,
    RateLimitedFault,
    TimeoutFault,
)
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.cache import call_key
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor
from w4s_jax.executor.prices import prompt_tokens_bound
from w4s_jax.types import (
    BudgetExceededError,
    ExecutorError,
    InputError,
    Purpose,
    StoreError,
)

# --- the cache ----------------------------------------------------------------


def test_the_key_is_the_hash_of_what_decides_the_reply():
    request = ask("1+1=?", model="m", temperature=0, max_tokens=7, n=2, json_mode=True)
    by_hand = (
        '{"json_mode":true,"max_tokens":7,"messages":[["user","1+1=?"]],"model":"m","n":2,'
        '"repetition":3,"sample_index":4,"temperature":0.0,"version":1}'
    )
    assert call_key(request, here(4, repetition=3)) == hashlib.sha256(by_hand.encode()).hexdigest()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ((ask(), here(item_id="a", workflow_digest="x")), (ask(), here(item_id="b", workflow_digest="y")), True),
        ((ask(), here(purpose=Purpose.TEST)), (ask(), here(purpose=Purpose.OPTIMISATION)), True),
        ((ask(temperature=1), here()), (ask(temperature=1.0), here()), True),
        ((ask(), here(0)), (ask(), here(1)), False),
        ((ask(), here()), (ask(), here(repetition=1)), False),
        ((ask(), here()), (ask(n=2), here()), False),
        ((ask(), here()), (ask(json_mode=True), here()), False),
        ((ask(), here()), (ask(max_tokens=101), here()), False),
        ((ask("a"), here()), (ask("b"), here()), False),
        ((ask(), here(1, repetition=0)), (ask(), here(0, repetition=1)), False),
    ],
)
def test_two_calls_are_the_same_call_iff_their_content_and_number_are(first, second, same):
    assert (call_key(*first) == call_key(*second)) is same


async def test_a_reply_is_bought_once_and_costs_nothing_again(tmp_path):
    backend = FakeBackend()
    for process in range(2):
        async with running(tmp_path, backend) as executor:
            first = await executor.complete(ask(), here(item_id="a"))
            again = await executor.complete(ask(), here(item_id="b"))
            assert first.from_cache is (process == 1)
            assert again.from_cache
            assert first.texts == again.texts == ("hi#0.0",)
            assert first.usd == again.usd == micro(ACTUAL)
            summary = executor.store.summary()
            assert (summary.total.calls, summary.cache_hits) == (1, 1 + process)
            assert executor.budget.spent.usd == summary.total.usd == micro(ACTUAL)
    assert len(backend.sent) == 1


async def test_five_samples_are_five_samples(tmp_path):
    async with running(tmp_path, FakeBackend()) as executor:
        replies = [await executor.complete(ask(), here(i)) for i in range(5)]
    assert len({reply.texts for reply in replies}) == 5


async def test_equal_calls_in_flight_share_one_attempt(tmp_path):
    backend = FakeBackend(open=asyncio.Event())
    async with running(tmp_path, backend) as executor:
        calls = [asyncio.create_task(executor.complete(ask(), here())) for _ in range(20)]
        while not backend.sent:
            await asyncio.sleep(0)
        backend.open.set()
        replies = await asyncio.gather(*calls)
        assert len(backend.sent) == 1
        assert sum(not reply.from_cache for reply in replies) == 1
        assert executor.store.summary().cache_hits == 19


async def test_a_call_that_was_sent_is_kept_though_nobody_waits(tmp_path):
    backend = FakeBackend(open=asyncio.Event())
    async with running(tmp_path, backend) as executor:
        call = asyncio.create_task(executor.complete(ask(), here()))
        while not backend.sent:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        backend.open.set()
        assert (await executor.complete(ask(), here())).texts == ("hi#0.0",)
    assert len(backend.sent) == 1


async def test_a_call_that_was_not_sent_ends_with_its_last_waiter(tmp_path):
    backend = FakeBackend(open=asyncio.Event())
    async with running(tmp_path, backend, concurrency=1) as executor:
        first = asyncio.create_task(executor.complete(ask("first"), here()))
        while not backend.sent:
            await asyncio.sleep(0)
        second = asyncio.create_task(executor.complete(ask("second"), here()))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        backend.open.set()
        await first
    assert [request.messages[0].content for request, _ in backend.sent] == ["first"]


async def test_what_is_on_its_way_at_close_stays_booked_in_full(tmp_path):
    backend = FakeBackend(open=asyncio.Event())
    async with running(tmp_path, backend, drain_seconds=0.01) as executor:
        call = asyncio.create_task(executor.complete(ask(), here()))
        while not backend.sent:
            await asyncio.sleep(0)
        await executor.close()
        assert executor.budget.spent.usd == micro(BOUND)
        with pytest.raises(asyncio.CancelledError):
            await call
    async with running(tmp_path, FakeBackend()) as executor:
        summary = executor.store.summary()
        assert summary.total.usd == micro(BOUND)
        assert summary.faults == {"cancelled": 1}


# --- money ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_500_calls_at_once_never_pass_a_cap(tmp_path, seed):
    draw = random.Random(seed)
    cap, billed, peak = 0.02, [], []

    def script(request, context, attempt):
        kind = draw.random()
        if kind < 0.2:
            return RateLimitedFault("slow down")
        if kind < 0.4:
            billed.append(prompt_tokens_bound(request.messages) + 2 * request.max_tokens)
            return TimeoutFault("gone")
        answer = reply("ok", prompt=draw.randrange(60), completion=draw.randrange(request.max_tokens))
        billed.append(answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens)
        peak.append(executor.budget.spent.usd + executor.budget.reserved.usd)
        return answer

    caps = Caps(usd=cap, tokens=100_000, calls=300)
    async with running(tmp_path, FakeBackend(script), caps=caps, concurrency=500) as executor:
        calls = [executor.complete(ask(str(i), max_tokens=1 + draw.randrange(200)), here()) for i in range(500)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result).__name__ for result in results} <= {"ChatReply", "BudgetExceededError", "ExecutorError"}
        assert any(isinstance(result, BudgetExceededError) for result in results)
        assert sum(billed) * 1e-6 <= cap + 1e-9
        assert max(peak) <= cap + 1e-9
        assert len(executor._backend.sent) <= 300
        summary = executor.store.summary()
        assert summary.total.usd == micro(sum(billed))
        assert executor.budget.spent.usd == pytest.approx(summary.total.usd)


async def test_a_call_without_room_is_not_sent(tmp_path):
    backend = FakeBackend()
    async with running(tmp_path, backend, caps=Caps(usd=BOUND * 1e-6 - 1e-7)) as executor:
        with pytest.raises(BudgetExceededError, match="--budget_usd="):
            await executor.complete(ask(), here())
    assert backend.sent == []


async def test_a_raised_cap_resumes_without_buying_twice(tmp_path):
    backend = FakeBackend()
    async with running(tmp_path, backend, caps=Caps(usd=1, calls=3)) as executor:
        results = [await executor.complete(ask(), here(i)) for i in range(3)]
        with pytest.raises(BudgetExceededError, match=r"--budget_calls=3.*spent 3"):
            await executor.complete(ask(), here(3))
    async with running(tmp_path, backend, caps=Caps(usd=1, calls=4)) as executor:
        assert [(await executor.complete(ask(), here(i))).texts for i in range(3)] == [r.texts for r in results]
        await executor.complete(ask(), here(3))
    assert len(backend.sent) == 4


async def test_the_ledger_sums_by_purpose_and_by_model(tmp_path):
    async with running(tmp_path, FakeBackend()) as executor:
        await executor.complete(ask("a"), here(purpose=Purpose.META_AGENT))
        await executor.complete(ask("b"), here(purpose=Purpose.TEST))
        await executor.complete(ask("c"), here(purpose=Purpose.TEST))
        summary = executor.store.summary()
    assert summary.by_purpose["meta_agent"].usd == micro(ACTUAL)
    assert summary.by_purpose["test"].usd == micro(2 * ACTUAL)
    assert summary.by_model["fake"].completion_tokens == 60
    rows = sqlite3.connect(tmp_path / "calls.sqlite").execute("SELECT purpose, outcome FROM calls ORDER BY id")
    assert rows.fetchall() == [("meta_agent", "reply"), ("test", "reply"), ("test", "reply")]


async def test_a_paid_model_needs_a_price_and_a_cap_in_usd(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    with pytest.raises(InputError, match="executor_prices"):
        MeteredExecutor(FakeBackend(model="other"), store, Budget(Caps(usd=1)), PRICES)
    with pytest.raises(InputError, match="budget_usd=inf"):
        MeteredExecutor(FakeBackend(), store, Budget(Caps()), PRICES)
    free = MeteredExecutor(FakeBackend(model="sim", simulated=True), store, Budget(Caps()), PRICES)
    assert free.price.simulated
    await store.close()


async def test_the_cap_on_seconds_sends_no_call_and_keeps_those_on_their_way(tmp_path):
    gate = asyncio.Event()
    backend = FakeBackend(open=gate)
    async with running(tmp_path, backend, caps=Caps(usd=1, seconds=0.1)) as executor:
        call = asyncio.create_task(executor.complete(ask("first"), here()))
        await asyncio.sleep(0.2)
        with pytest.raises(BudgetExceededError, match=r"--budget_seconds=0\.1"):
            await executor.complete(ask("second"), here())
        gate.set()
        assert (await call).texts == ("first#0.0",)
        assert len(backend.sent) == 1
        assert executor.store.summary().total.usd == micro(ACTUAL)


async def test_what_was_sent_arrives_though_the_executor_is_closing(tmp_path):
    gate = asyncio.Event()
    backend = FakeBackend(open=gate)
    async with running(tmp_path, backend) as executor:
        call = asyncio.create_task(executor.complete(ask(), here()))
        while not backend.sent:
            await asyncio.sleep(0)
        call.cancel()  # as Ctrl-C does
        asyncio.get_running_loop().call_later(0.1, gate.set)
    async with running(tmp_path, FakeBackend()) as executor:
        assert (await executor.complete(ask(), here())).from_cache
        assert executor.store.summary().total.usd == micro(ACTUAL)


# --- n, one by one ----------------------------------------------------------------


async def test_a_model_without_n_is_asked_one_by_one_and_each_is_kept(tmp_path):
    def script(request, context, attempt):
        return NotAcceptedFault("one choice", parameter="n") if request.n > 1 else echo(request, context, attempt)

    backend = FakeBackend(script)
    async with running(tmp_path, backend) as executor:
        single = await executor.complete(ask(), here(0))
        three = await executor.complete(ask(n=3), here(0))
        others = [await executor.complete(ask(n=3), here(1)), await executor.complete(ask(n=2), here(0))]
        texts = [*single.texts, *three.texts, *others[0].texts, *others[1].texts]
        assert len(set(texts)) == 1 + 3 + 3 + 2
        assert three.usage.completion_tokens == 60
        assert three.usd == micro(3 * ACTUAL)
        assert sum(request.n > 1 for request, _ in backend.sent) == 1  # learnt once
        assert executor.store.summary().faults == {"not_accepted": 1}
        sent = len(backend.sent)
        assert (await executor.complete(ask(n=3), here(0))).texts == three.texts
        assert len(backend.sent) == sent


async def test_a_model_that_takes_nothing_is_given_up(tmp_path):
    backend = FakeBackend(lambda *_: NotAcceptedFault("no", parameter="temperature"))
    async with running(tmp_path, backend) as executor:
        with pytest.raises(ExecutorError, match="not_accepted"):
            await executor.complete(ask(), here())
    assert len(backend.sent) < 15


# --- load -------------------------------------------------------------------------


async def test_no_more_than_so_many_are_on_their_way(tmp_path):
    backend = FakeBackend()
    async with running(tmp_path, backend, concurrency=7) as executor:
        await asyncio.gather(*(executor.complete(ask(), here(i)) for i in range(60)))
    assert backend.most == 7


# --- death and disk -----------------------------------------------------------------


CHILD = """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from fakes import FakeBackend, ask, echo, here
    from test_executor_metered import running

    class Half(FakeBackend):
        async def send(self, request, context):
            if context.sample_index >= 3:
                print("sent", flush=True)
                await asyncio.sleep(60)
            return await super().send(request, context)

    async def main():
        async with running(Path({path!r}), Half()) as executor:
            await asyncio.gather(*(executor.complete(ask(), here(i)) for i in range(3)))
            await asyncio.gather(*(executor.complete(ask(), here(i)) for i in (3, 4)))

    asyncio.run(main())
"""


async def test_a_kill_loses_no_reply_and_leaves_what_was_in_flight_booked_in_full(tmp_path):
    code = textwrap.dedent(CHILD.format(tests=str(Path(__file__).parent), path=str(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert [child.stdout.readline() for _ in range(2)] == ["sent\n"] * 2
        child.send_signal(signal.SIGKILL)
    backend = FakeBackend()
    async with running(tmp_path, backend) as executor:
        assert executor.store.left_in_flight == 2
        assert executor.budget.spent.usd == micro(3 * ACTUAL + 2 * BOUND)
        assert executor.store.summary().faults == {"in_flight": 2}
        for i in range(3):
            assert (await executor.complete(ask(), here(i))).from_cache
        assert backend.sent == []
        assert not (await executor.complete(ask(), here(3))).from_cache
    async with running(tmp_path, backend) as executor:
        assert executor.store.left_in_flight == 0
        assert executor.budget.spent.usd == micro(4 * ACTUAL + 2 * BOUND)


async def test_a_full_disk_is_an_error_that_names_the_file_and_delivers_nothing(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    executor = MeteredExecutor(FakeBackend(), store, Budget(Caps(usd=1)), PRICES)
    await executor.complete(ask(), here())
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    calls = [executor.complete(ask("x" * 2000), here(i)) for i in range(100)]
    assert {type(result) for result in await asyncio.gather(*calls, return_exceptions=True)} == {StoreError}
    with pytest.raises(StoreError, match=r"calls\.sqlite: database or disk is full; free space"):
        await executor.complete(ask(), here(1000))
    with pytest.raises(StoreError, match="disk is full"):
        await store.close()


async def test_a_file_in_use_and_a_file_of_another_kind_are_named(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    with pytest.raises(StoreError, match="in use by another process"):
        CallStore(tmp_path / "calls.sqlite")
    await store.close()
    await store.close()
    (tmp_path / "text").write_text("this is not a database, " * 100)
    with pytest.raises(StoreError, match="text: file is not a database"):
        CallStore(tmp_path / "text")
    with pytest.raises(StoreError, match="No such file"):
        CallStore(tmp_path / "nowhere" / "calls.sqlite")


async def test_the_time_spent_goes_on_where_it_ended(tmp_path):
    now = [100.0]
    for before in (0.0, 5.0):
        store = CallStore(tmp_path / "calls.sqlite", clock=lambda: now[0])
        assert store.spent.seconds == before
        now[0] += 5
        await store.close()
