"""Faults of a scripted back end: what is tried again, for how long, and at what each attempt is booked."""

import asyncio
import random

import pytest
from fakes import ACTUAL, BOUND, FakeBackend, ask, echo, here, micro, reply, running

from w4s_jax.executor.base import (
    AuthFault,
    BadRequestFault,
    BrokenBodyFault,
    ConnectionCutFault,
    EmptyReplyFault,
    MalformedReplyFault,
    RateLimitedFault,
    RefusedFault,
    ServerFault,
    TimeoutFault,
    UnreachableFault,
)
from w4s_jax.executor.budget import Caps
from w4s_jax.types import CallRefusedError, ExecutorError, Usage


@pytest.mark.parametrize(
    ("fault", "booked"),
    [
        (RateLimitedFault("x"), 0),
        (ServerFault("x"), 0),
        (UnreachableFault("x"), 0),
        (ServerFault("x", billed_unknown=True), BOUND),
        (TimeoutFault("x"), BOUND),
        (ConnectionCutFault("x"), BOUND),
        (BrokenBodyFault("x"), BOUND),
        (EmptyReplyFault("x", usage=Usage(prompt_tokens=3, completion_tokens=4)), 3 + 2 * 4),
    ],
)
async def test_each_fault_is_retried_counted_and_booked_at_what_it_may_have_cost(tmp_path, fault, booked):
    backend = FakeBackend(lambda request, context, attempt: echo(request, context, 0) if attempt else fault)
    async with running(tmp_path, backend) as executor:
        assert (await executor.complete(ask(), here())).texts == ("hi#0.0",)
        summary = executor.store.summary()
        assert summary.faults == {fault.kind: 1}
        assert summary.total.calls == 2
        assert summary.total.usd == executor.budget.spent.usd == micro(booked + ACTUAL)
        assert executor.budget.reserved == (0.0, 0, 0)


def sometimes(share):
    """An echo with every fault that can be retried, drawn by the call and attempt alone."""
    kinds = (RateLimitedFault, ServerFault, TimeoutFault, ConnectionCutFault, BrokenBodyFault, UnreachableFault)

    def script(request, context, attempt):
        draw = random.Random(f"{request.messages[0].content}/{attempt}")
        return draw.choice(kinds)("injected") if draw.random() < share else echo(request, context, attempt)

    return script


async def test_a_third_of_faults_changes_no_reply(tmp_path):
    replies = {}
    for share in (0.0, 0.3):
        folder = tmp_path / str(share)
        folder.mkdir()
        async with running(folder, FakeBackend(sometimes(share)), max_attempts=20) as executor:
            calls = [executor.complete(ask(str(i)), here()) for i in range(200)]
            replies[share] = [reply.texts for reply in await asyncio.gather(*calls)]
            faults = sum(executor.store.summary().faults.values())
            assert (faults > 30) is (share > 0)
    assert replies[0.0] == replies[0.3]


async def test_patience_ends_with_an_error_of_ours_that_names_the_fault(tmp_path):
    backend = FakeBackend(lambda *_: ServerFault("HTTP 500: boom"))
    async with running(tmp_path, backend, max_attempts=4) as executor:
        with pytest.raises(ExecutorError, match="failed 4 times, last with server_error: HTTP 500: boom"):
            await executor.complete(ask(), here())
    assert len(backend.sent) == 4


async def test_nobody_there_ends_patience_sooner(tmp_path):
    backend = FakeBackend(lambda *_: UnreachableFault("connection refused"))
    async with running(tmp_path, backend, max_attempts=20, max_unreachable=3) as executor:
        with pytest.raises(ExecutorError, match="failed 3 times, last with unreachable"):
            await executor.complete(ask(), here())
    assert len(backend.sent) == 3


async def test_the_first_fault_of_each_kind_is_told(tmp_path, caplog):
    def script(request, context, attempt):
        return [ServerFault("boom"), ServerFault("boom"), RateLimitedFault("slow down"), reply("ok")][attempt]

    async with running(tmp_path, FakeBackend(script)) as executor:
        await asyncio.gather(*(executor.complete(ask(str(i)), here()) for i in range(5)))
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "model 'fake': server_error (boom)",
        "model 'fake': rate_limited (slow down)",
    ]


async def test_json_that_is_none_is_asked_for_again_and_at_last_delivered_as_it_is(tmp_path):
    def script(request, context, attempt):
        good_from = {"twice": 2, "always": 99}[request.messages[0].content]
        bad = reply(f"bad {attempt}")
        return reply("{}") if attempt >= good_from else MalformedReplyFault("no JSON", reply=bad)

    async with running(tmp_path, FakeBackend(script)) as executor:
        assert (await executor.complete(ask("twice", json_mode=True), here())).texts == ("{}",)
        assert executor.store.summary().faults == {"malformed_json": 2}
        assert executor.store.summary().total.usd == micro(3 * ACTUAL)
        assert (await executor.complete(ask("always", json_mode=True), here())).texts == ("bad 3",)
        assert executor.store.summary().faults == {"malformed_json": 2 + 3}
        assert executor.store.summary().total.usd == micro(7 * ACTUAL)
        assert (await executor.complete(ask("always", json_mode=True), here())).from_cache


async def test_json_that_is_none_is_no_reason_to_stop_or_to_pay_for_nothing(tmp_path):
    def script(request, context, attempt):
        return MalformedReplyFault("no JSON", reply=reply(f"bad {attempt}"))

    async with running(tmp_path, FakeBackend(script), max_attempts=1) as executor:
        assert (await executor.complete(ask("a", json_mode=True), here())).texts == ("bad 0",)
    (tmp_path / "capped").mkdir()
    caps = Caps(usd=(BOUND + 10) * 1e-6)  # room for one call, and after it for none
    async with running(tmp_path / "capped", FakeBackend(script), caps=caps) as executor:
        got = await executor.complete(ask("hi", json_mode=True), here())
        assert (got.texts, got.usd) == (("bad 0",), micro(ACTUAL))
        assert executor.store.summary().total.usd == micro(ACTUAL)
    backend = FakeBackend(script)
    async with running(tmp_path / "capped", backend, caps=caps) as executor:
        assert (await executor.complete(ask("hi", json_mode=True), here())).texts == ("bad 0",)
    assert backend.sent == []


@pytest.mark.parametrize("fault", [TimeoutFault("x"), EmptyReplyFault("x", usage=Usage(completion_tokens=4))])
async def test_what_is_paid_each_time_is_not_tried_so_often(tmp_path, fault):
    backend = FakeBackend(lambda *_: fault)
    async with running(tmp_path, backend, max_attempts=20, max_paid_attempts=3) as executor:
        with pytest.raises(ExecutorError, match="failed 3 times"):
            await executor.complete(ask(), here())
    assert len(backend.sent) == 3


@pytest.mark.parametrize("fault", [AuthFault("no"), BadRequestFault("no"), RateLimitedFault("no", retry_after=1e6)])
async def test_what_waiting_cannot_help_is_not_retried(tmp_path, fault):
    backend = FakeBackend(lambda *_: fault)
    async with running(tmp_path, backend) as executor:
        with pytest.raises(ExecutorError):
            await executor.complete(ask(), here())
    assert len(backend.sent) == 1


async def test_retry_after_is_waited_out_and_waits_grow(tmp_path):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    def script(request, context, attempt):
        return [ServerFault("x"), ServerFault("x"), RateLimitedFault("x", retry_after=7.5), reply("ok")][attempt]

    async with running(tmp_path, FakeBackend(script), sleep=sleep) as executor:
        await executor.complete(ask(), here())
    assert 0.25 <= waits[0] < 0.5
    assert 0.5 <= waits[1] < 1.0
    assert 7.5 < waits[2] <= 8.0


async def test_waits_do_not_grow_with_replies_that_were_of_no_use(tmp_path):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    def script(request, context, attempt):
        empty, bad = EmptyReplyFault("x", usage=Usage()), MalformedReplyFault("x", reply=reply("x"))
        return [empty, bad, empty, ServerFault("x"), ServerFault("x"), reply("ok")][attempt]

    async with running(tmp_path, FakeBackend(script), sleep=sleep) as executor:
        await executor.complete(ask(), here())
    assert all(0.25 <= wait < 0.5 for wait in waits[:4])
    assert 0.5 <= waits[4] < 1.0


async def test_what_a_workflow_asks_wrongly_is_told_to_the_workflow(tmp_path):
    backend = FakeBackend(lambda *_: RefusedFault("maximum context length is 8192"))
    async with running(tmp_path, backend) as executor:
        with pytest.raises(CallRefusedError, match="maximum context"):
            await executor.complete(ask(), here())
        for request in (
            ask(n=0),
            ask(n=10**6),
            ask(max_tokens=10**9),
            ask(max_tokens=0),
            ask(temperature=float("nan")),
            ask(temperature=-1),
            ask("\ud800"),
        ):
            with pytest.raises(CallRefusedError):
                await executor.complete(request, here())
    assert len(backend.sent) == 1


async def test_a_reply_that_ended_for_its_length_is_returned_and_counted(tmp_path):
    async with running(tmp_path, FakeBackend(lambda *_: reply("half a", finish="length"))) as executor:
        assert (await executor.complete(ask(), here())).finish_reasons == ("length",)
        assert executor.store.summary().total.length_stops == 1
