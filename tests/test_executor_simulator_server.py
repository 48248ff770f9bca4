"""The loopback server: the replies of the back end in the process, and faults on request."""

import asyncio
import json

import aiohttp
import pytest

from w4s_jax.executor.client import OpenAIBackend
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.model import SampleId
from w4s_jax.executor.simulator.replies import NO_QUESTION
from w4s_jax.executor.simulator.server import SAMPLE_HEADER, FaultKind, ServerOptions, serve
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import toy_task
from w4s_jax.types import CallContext, ChatRequest, InputError, Message, Purpose, Split

JSON_MODE = {"type": "json_object"}


@pytest.fixture(scope="module")
def simulator():
    task = toy_task("toy_ambiguous", sizes=SplitSizes(train=0, validation=6, test=0))
    return SimulatedBackend(tasks=[task]), [i.question for i in task.items(Split.VALIDATION)]


def body(question, **fields):
    return {"model": "simulated", "messages": [{"role": "user", "content": question}], **fields}


async def post(url, payload, sample="0.0", **headers):
    async with aiohttp.ClientSession() as session:
        response = await session.post(
            url + "/chat/completions", json=payload, headers={SAMPLE_HEADER: sample, **headers}
        )
        return response.status, response.headers, await response.json()


async def test_server_and_back_end_give_the_same_replies_through_the_real_client(simulator):
    backend, questions = simulator
    keys = "\nReply with one JSON object with the keys: reasoning, answer."
    async with serve(backend) as url:
        client = OpenAIBackend("simulated", base_url=url)
        for number, question in enumerate(questions):
            for json_mode in (False, True):
                request = ChatRequest(
                    model="simulated",
                    messages=(
                        Message(role="system", content="You are a clerk."),
                        Message(role="user", content=question + (keys if json_mode else "\nThink step by step.")),
                    ),
                    temperature=0.8,
                    n=1 + number % 3,
                    max_tokens=200,
                    json_mode=json_mode,
                )
                context = CallContext(purpose=Purpose.OPTIMISATION, sample_index=number, repetition=1)
                assert await client.send(request, context) == await backend.send(request, context)
        await client.close()


async def test_the_body_is_that_of_a_chat_completion(simulator):
    backend, questions = simulator
    async with serve(backend) as url:
        status, _, reply = await post(url, body(questions[0], n=2, temperature=0.5), sample="3.1")
    request = ChatRequest(model="m", messages=(Message(role="user", content=questions[0]),), n=2, temperature=0.5)
    expected = backend.reply(request, SampleId(3, 1))
    assert status == 200
    assert [c["message"]["content"] for c in reply["choices"]] == list(expected.texts)
    assert [c["finish_reason"] for c in reply["choices"]] == ["stop", "stop"]
    assert reply["usage"]["total_tokens"] == expected.usage.prompt_tokens + expected.usage.completion_tokens


@pytest.mark.parametrize(
    ("payload", "sample", "parameter"),
    [
        ({"messages": "hi"}, "0.0", None),
        ({"messages": [{"role": "user"}]}, "0.0", None),
        ([], "0.0", None),
        (body("q", n=0.5), "0.0", "n"),
        (body("q", n=1000), "0.0", "n"),
        (body("q", temperature="hot"), "0.0", None),
        (body("q", seed=1), "0.0", "seed"),
        (body("q"), "one", None),
    ],
)
async def test_a_bad_request_is_a_400_that_names_its_parameter(simulator, payload, sample, parameter):
    async with serve(simulator[0]) as url:
        status, _, reply = await post(url, payload, sample)
    assert (status, reply["error"]["param"]) == (400, parameter)


async def test_parameters_can_be_refused_and_a_key_demanded(simulator):
    options = ServerOptions(unsupported=frozenset({"max_tokens"}), api_key="sk-test")
    async with serve(simulator[0], options=options) as url:
        status, _, reply = await post(url, body("q", max_tokens=5), Authorization="Bearer sk-test")
        assert (status, reply["error"]["param"], reply["error"]["code"]) == (400, "max_tokens", "unsupported_parameter")
        assert "max_completion_tokens" in reply["error"]["message"]
        status, _, _ = await post(url, body("q", max_completion_tokens=5), Authorization="Bearer sk-test")
        assert status == 200
        status, _, reply = await post(url, body("q"), Authorization="Bearer sk-other")
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")


async def test_each_fault_looks_as_it_does_in_the_wild(simulator):
    async def under(kind, payload=None):
        async with serve(simulator[0], options=ServerOptions(faults={kind: 1.0})) as url:
            return await post(url, payload or body("q"))

    status, headers, _ = await under(FaultKind.RATE_LIMITED)
    assert (status, headers["Retry-After"]) == (429, "0.05")
    status, headers, _ = await under(FaultKind.RATE_LIMITED_SILENT)
    assert (status, headers.get("Retry-After")) == (429, None)
    assert (await under(FaultKind.SERVER_ERROR))[0] == 500
    assert (await under(FaultKind.GATEWAY_ERROR))[0] == 502
    status, _, reply = await under(FaultKind.MALFORMED_JSON, body("q\nkeys: answer", response_format=JSON_MODE))
    assert status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(reply["choices"][0]["message"]["content"])
    assert (await under(FaultKind.MALFORMED_JSON))[2]["choices"][0]["message"]["content"] == NO_QUESTION
    status, _, reply = await under(FaultKind.EMPTY)
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "")
    with pytest.raises(ValueError, match="Unterminated"):
        await under(FaultKind.BROKEN_BODY)
    with pytest.raises(aiohttp.ClientError):
        await under(FaultKind.CUT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(under(FaultKind.HANG), 0.3)


async def test_faults_are_drawn_by_body_and_attempt_not_by_arrival(simulator):
    options = ServerOptions(faults={FaultKind.SERVER_ERROR: 0.5}, fault_seed=1)
    payloads = [body(f"question {i}") for i in range(12)]

    async def statuses(order):
        async with serve(simulator[0], options=options) as url:
            seen = {}
            for i in order:
                seen[i] = [(await post(url, payloads[i]))[0] for _ in range(2)]
            return [seen[i] for i in range(12)]

    forward = await statuses(range(12))
    assert forward == await statuses(reversed(range(12)))
    assert {200, 500} == {status for pair in forward for status in pair}


async def test_what_the_server_did_stands_in_its_book(simulator):
    backend, questions = simulator
    options = ServerOptions(faults={FaultKind.GATEWAY_ERROR: 0.5}, fault_seed=1)
    payload = body(questions[0])
    async with serve(backend, options=options) as url, aiohttp.ClientSession() as session:
        seen = [(await post(url, payload))[0] for _ in range(6)]
        book = await (await session.get(url + "/book")).json()
    made = backend.reply(
        ChatRequest(model="simulated", messages=(Message(role="user", content=questions[0]),)), SampleId(0, 0)
    )
    assert {200, 502} == set(seen)
    assert book == {
        "attempts": 6,
        "replies": seen.count(200),
        "given_again": seen.count(200) - 1,
        "prompt_tokens": 6 * made.usage.prompt_tokens,
        "completion_tokens": 6 * made.usage.completion_tokens,
        "faults": {"gateway_error": seen.count(502)},
    }


async def test_latency_is_slept_on_request(simulator):
    backend, questions = simulator
    seconds = backend.response_model.latency(0)
    async with serve(backend, options=ServerOptions(latency_scale=0.4)) as url:
        start = asyncio.get_running_loop().time()
        await post(url, body(questions[0] + "\nGive only the final number."))
        assert asyncio.get_running_loop().time() - start >= 0.4 * seconds


async def test_the_server_lists_its_model(simulator):
    async with serve(simulator[0]) as url, aiohttp.ClientSession() as session:
        reply = await (await session.get(url + "/models")).json()
    assert [m["id"] for m in reply["data"]] == ["simulated"]


def test_faults_are_probabilities():
    with pytest.raises(InputError, match="sum to at most 1"):
        ServerOptions(faults={FaultKind.CUT: 0.7, FaultKind.HANG: 0.7})
