"""What the pool accepts of a child, and its fair count of slots."""

import asyncio
import struct

import pytest

from w4s_jax.sandbox import protocol
from w4s_jax.sandbox.protocol import BreachError, Frames
from w4s_jax.sandbox.slots import Slots
from w4s_jax.types import CallRefusedError, Limits, RunStatus

CALL = {
    "type": "llm",
    "messages": [{"role": "user", "content": "x"}],
    "temperature": 0.5,
    "n": 1,
    "json_mode": False,
    "max_tokens": None,
}


def framed(body):
    return struct.pack("!I", len(body)) + body


def test_frames_come_out_whole_however_the_bytes_arrive():
    stream = framed(b'{"a": 1}') + framed(b'{"b": "\\u00e9"}')
    frames, found = Frames(100), []
    for byte in stream:
        frames.feed(bytes([byte]))
        while (message := frames.take()) is not None:
            found.append(message)
    assert found == [{"a": 1}, {"b": "é"}]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"NaN", b'{"a": NaN}', b"\xff", b"[" * 90, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_frame_that_is_no_json_object_is_a_breach(body):
    frames = Frames(10_000)
    frames.feed(framed(body))
    with pytest.raises(BreachError):
        frames.take()


def test_a_frame_is_refused_by_its_announced_length_before_it_arrives():
    frames = Frames(10)
    frames.feed(struct.pack("!I", 11))
    with pytest.raises(BreachError, match="11 bytes exceeds 10"):
        frames.take()


def test_a_good_call_is_taken_over_field_by_field():
    call = protocol.parse_request({**CALL, "n": 3, "json_mode": True, "max_tokens": 7, "temperature": 2}, Limits())
    assert (call.n, call.json_mode, call.max_tokens, call.temperature) == (3, True, 7, 2.0)
    assert [(m.role, m.content) for m in call.messages] == [("user", "x")]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"n": 1000}, "num_of_response='1000' is refused; allowed: an integer in [1, 128]"),
        ({"temperature": 3}, "allowed: a number in [0, 2]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "system or user or assistant"),
        ({"messages": [{"role": "user", "content": ""}]}, "not empty"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "role and content"),
        ({"x": [{}] * 9}, "field='x' is refused; allowed: json_mode, max_tokens, messages, n, temperature, type"),
    ],
)
def test_a_refused_call_says_what_is_allowed(change, part):
    with pytest.raises(CallRefusedError) as refused:
        protocol.parse_request({**CALL, **change}, Limits())
    assert part in str(refused.value)


@pytest.mark.parametrize("answer", ["x", 7, -0.25, True, None, ""])
def test_plain_answers_pass(answer):
    run = protocol.parse_workflow_result({"status": "ok", "answer": answer}, Limits(), 1.0)
    assert (run.status, run.answer, run.seconds) == (RunStatus.OK, answer, 1.0)


@pytest.mark.parametrize(
    "message",
    [{}, {"status": "ok"}, {"status": "great", "answer": 1}, {"status": ["ok"]}, {"status": "ok", "answer": [1]},
     {"status": "ok", "answer": {"a": 1}}, {"status": "ok", "answer": "x" * 200}],
)  # fmt: skip
def test_other_results_are_breaches(message):
    with pytest.raises(BreachError):
        protocol.parse_workflow_result(message, Limits(output_bytes=100), 0.0)


def test_error_texts_are_bounded_and_of_one_line():
    evil = "a\nb\ud800\x1b[2J\u2028\x85\x00\u202e " * 999
    run = protocol.parse_workflow_result({"status": "exception", "error": evil, "traceback": 7}, Limits(), 0.0)
    assert 500 < len(run.error) <= 1000
    assert run.error.startswith("a b\ufffd\ufffd[2J \ufffd\ufffd a b")
    assert run.error.isprintable()
    assert run.traceback == ""
    run = protocol.parse_workflow_result({"status": "exception", "error": 7, "traceback": evil}, Limits(), 0.0)
    assert run.error == ""
    assert len(run.traceback) == 4000
    assert set(run.traceback) == set("a\nb\ufffd[2J ")


@pytest.mark.parametrize("timeout", [10**9, 10**4000, 5.0])
def test_a_program_cannot_run_longer_than_its_workflow_may(timeout):
    request = {"type": "run_code", "code": "1", "timeout": timeout}
    assert protocol.parse_request(request, Limits(wall_seconds=5)).timeout == 5


@pytest.mark.parametrize("kind", ["result", "spawn", None, ["llm"], {}, "x" * 999])
def test_there_is_no_other_request(kind):
    with pytest.raises(BreachError, match="unknown request"):
        protocol.parse_request({**CALL, "type": kind}, Limits())


async def test_slots_are_given_in_the_order_of_asking_and_all_at_once_is_not_overtaken():
    slots, order = Slots(2), []

    async def work(name, count):
        async with slots.take(count):
            order.append(name)
            await asyncio.sleep(0)

    await slots.acquire(1)
    tasks = [asyncio.create_task(work(n, c)) for n, c in (("all", 2), ("one", 1), ("two", 1))]
    await asyncio.sleep(0)
    assert order == []
    slots.release(1)
    await asyncio.gather(*tasks)
    assert order == ["all", "one", "two"]


async def test_a_holder_and_a_waiter_that_are_cancelled_at_once_leave_the_count_right():
    slots = Slots(1)

    async def work():
        async with slots.take(1):
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    ended = await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 2
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    async with asyncio.timeout(1):
        await slots.acquire(1)


async def test_a_waiter_that_is_cancelled_lets_the_next_one_through():
    slots = Slots(2)
    await slots.acquire(1)
    everything = asyncio.create_task(slots.acquire(2))
    one = asyncio.create_task(slots.acquire(1))
    await asyncio.sleep(0)
    everything.cancel()
    await asyncio.wait_for(one, 1)
    assert one.done()
    assert everything.cancelled()
