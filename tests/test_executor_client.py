"""The real client against a scripted server on loopback, and what its words mean."""

import asyncio
import json
import socket

import pytest
from fakes import Answer, FakeServer, ask, completion, here, refusal

from w4s_jax.executor import adapter
from w4s_jax.executor.adapter import known_dialect, parameter_not_taken
from w4s_jax.executor.base import (
    AuthFault,
    BadRequestFault,
    BrokenBodyFault,
    ConnectionCutFault,
    EmptyReplyFault,
    MalformedReplyFault,
    NotAcceptedFault,
    QuotaFault,
    RateLimitedFault,
    RefusedFault,
    ServerFault,
    TimeoutFault,
    UnreachableFault,
)
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.client import OpenAIBackend, retry_after_seconds
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor
from w4s_jax.executor.prices import Price, PriceTable, usage_bound
from w4s_jax.sandbox.child import parsing
from w4s_jax.types import InputError, Usage


def client_of(server, *, model="fake", timeout=5.0):
    return OpenAIBackend(model, base_url=server.base_url, timeout_seconds=timeout)


async def fault_of(answer, *, request=None, timeout=5.0):
    """What one attempt raises where the server sends `answer`."""
    async with FakeServer(lambda *_: answer) as server:
        backend = client_of(server, timeout=timeout)
        try:
            with pytest.raises(Exception) as caught:  # noqa: PT011 (the callers look at its type)
                await backend.send(request or ask(), here())
        finally:
            await backend.close()
        assert len(server.requests) == 1  # the client does not try again by itself
    return caught.value


async def test_a_request_goes_out_and_a_reply_comes_back_as_the_format_says():
    texts = ('{"a": 1}', 'So: {"b": 2}.')
    async with FakeServer(lambda *_: completion(*texts, prompt_tokens_details={"cached_tokens": 4})) as server:
        backend = client_of(server)
        got = await backend.send(ask("q", temperature=0.3, n=2, json_mode=True, max_tokens=9), here(5, repetition=2))
        await backend.close()
        ((body, headers),) = server.requests
    assert body == {
        "model": "fake",
        "messages": [{"role": "user", "content": "q"}],
        "temperature": 0.3,
        "max_tokens": 9,
        "n": 2,
        "response_format": {"type": "json_object"},
    }
    assert headers["X-W4S-Sample"] == "2.5"
    assert got.texts == texts
    assert got.finish_reasons == ("stop", "stop")
    assert got.usage == Usage(prompt_tokens=10, cached_prompt_tokens=4, completion_tokens=20)


@pytest.mark.parametrize(
    ("answer", "kind", "unknown"),
    [
        (refusal("slow down", status=429), RateLimitedFault, False),
        (refusal("you have no credit", status=429, code="insufficient_quota"), QuotaFault, False),
        (refusal("pay first", status=402), QuotaFault, False),
        (refusal("boom", status=500), ServerFault, False),
        (refusal("overloaded", status=503), ServerFault, False),
        (refusal("overloaded", status=529), ServerFault, False),
        (refusal("bad gateway", status=502), ServerFault, True),
        (Answer(b"<html>gateway timeout</html>", status=504), ServerFault, True),
        (refusal("bad key", status=401), AuthFault, False),
        (refusal("not for you", status=403), AuthFault, False),
        (refusal("no such model", status=404), BadRequestFault, False),
        (refusal("something else", status=400), BadRequestFault, False),
        (refusal("maximum context length is 8192", code="context_length_exceeded"), RefusedFault, False),
        (refusal("2.5 is greater than the maximum of 2", param="temperature"), RefusedFault, False),
        (refusal("max_tokens is too large: 9. At most 4 are supported.", param="max_tokens"), RefusedFault, False),
        (refusal("too large", status=413), RefusedFault, False),
        (Answer(completion("x" * 1000), how="cut"), ConnectionCutFault, True),
        (Answer(completion("x" * 1000), how="cut_body"), ConnectionCutFault, True),
        (Answer(b"{"), BrokenBodyFault, True),
        (Answer(b"[]"), BrokenBodyFault, True),
        (Answer(b"null"), BrokenBodyFault, True),
        (Answer(b"\xff\xfe\xff"), BrokenBodyFault, True),
        (Answer(b"[" * 100_000), BrokenBodyFault, True),
        (Answer(b"plain", headers={"Content-Encoding": "gzip"}), BrokenBodyFault, True),
        (Answer({"error": {"message": "upstream failed"}}), BrokenBodyFault, True),
        (Answer({"choices": [{"message": "text"}]}), BrokenBodyFault, True),
        (Answer({"choices": [{"message": {"content": 7}}]}), BrokenBodyFault, True),
        (Answer(completion("")), EmptyReplyFault, False),
        (Answer(completion(None)), EmptyReplyFault, False),
        (Answer(completion()), EmptyReplyFault, False),
    ],
)
async def test_each_way_to_fail_has_a_fault_of_its_own(answer, kind, unknown):
    fault = await fault_of(answer)
    assert type(fault) is kind
    assert fault.billed_unknown is unknown
    assert "\n" not in str(fault)


@pytest.mark.parametrize("how", ["hang", "drip"])
async def test_the_hard_limit_covers_the_whole_attempt(how):
    fault = await fault_of(Answer(completion("x" * 1000), how=how), timeout=0.2)
    assert type(fault) is TimeoutFault
    assert fault.billed_unknown


async def test_a_server_that_is_not_there_bills_nothing():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backend = OpenAIBackend("m", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(UnreachableFault) as caught:
        await backend.send(ask(), here())
    assert not caught.value.billed_unknown
    await backend.close()


async def test_an_empty_reply_is_billed_at_what_it_tells():
    fault = await fault_of(completion("", prompt=7, completion=3))
    assert fault.usage == Usage(prompt_tokens=7, completion_tokens=3)


@pytest.mark.parametrize("text", ["no object", '{"a": 1', "[1]", '"a"'])
async def test_json_mode_without_an_object_is_a_fault_that_carries_the_reply(text):
    fault = await fault_of(completion("nor here", text), request=ask(n=2, json_mode=True))
    assert isinstance(fault, MalformedReplyFault)
    assert fault.reply.texts == ("nor here", text)
    assert fault.usage == Usage(prompt_tokens=10, completion_tokens=20)
    assert not fault.billed_unknown


@pytest.mark.parametrize(("text", "finish"), [('{"a": 1', "length"), (r'{"a": "\frac{1}{2} is \(x\)"}', "stop")])
async def test_json_that_was_ended_early_or_that_a_workflow_can_read_is_returned(text, finish):
    async with FakeServer(lambda *_: completion(text, finish=finish)) as server:
        backend = client_of(server)
        assert (await backend.send(ask(json_mode=True), here())).texts == (text,)
        await backend.close()


async def test_one_choice_that_can_be_read_is_enough(tmp_path):
    texts = ("no object", '{"a": 1}')
    async with FakeServer(lambda *_: completion(*texts)) as server:
        backend = client_of(server)
        assert (await backend.send(ask(n=2, json_mode=True), here())).texts == texts
        await backend.close()


@pytest.mark.parametrize(
    "text",
    [
        *(
            '{"a": 1}',
            'So {"a": {"b": "}"}} it is',
            "{}",
            "",
            "{",
            "}",
            "}{",
            "{1}",
            "[1]",
            '{"a": 1} {"b": 2}',
            "{'a': 1}",
        ),
        *(r'{"a": "\(x\)"}', r'{"a": "\frac{1}{2}"}', r'{"a": "\underline{x}"}', r'{"a": "\unit"}', r'{"a": "\u12"}'),
        *(r'{"a": "x \neq \nu"}', r'{"a": "\\frac"}', r'{"a": "\text{b} \circ"}', r'\neq {"a": 1}', r'{"a": \nu}'),
        *(
            r'{"a": "\u00e9 \\ \/ \n"}',
            r'{"a": "\"}',
            '{"a": "\n\t"}',
            "{" * 5000 + "}" * 5000,
            '```json\n{"a": 1}\n```',
        ),
    ],
)
def test_the_client_can_read_what_the_agent_of_a_workflow_can(text):
    assert adapter.holds_object(text) is (parsing.json_object(text) is not None)


async def test_a_model_that_takes_no_json_mode_is_not_held_to_it():
    def script(body, headers, attempt):
        return refusal("response_format is not supported") if "response_format" in body else completion("x")

    async with FakeServer(script) as server:
        backend = client_of(server)
        with pytest.raises(NotAcceptedFault):
            await backend.send(ask(json_mode=True), here())
        assert (await backend.send(ask(json_mode=True), here())).texts == ("x",)
        await backend.close()


@pytest.mark.parametrize(("reason", "text"), [("length", "half a sen"), ("length", ""), ("content_filter", "")])
async def test_a_reply_that_was_ended_early_is_returned(reason, text):
    async with FakeServer(lambda *_: completion(text, finish=reason)) as server:
        backend = client_of(server)
        got = await backend.send(ask(), here())
        await backend.close()
    assert (got.texts, got.finish_reasons) == ((text,), (reason,))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, usage_bound(ask())),
        ({"prompt_tokens": "many", "completion_tokens": 3}, usage_bound(ask())),
        ({"prompt_tokens": 5, "completion_tokens": -3}, usage_bound(ask())),
        # hidden thoughts that only the total tells of: 30 - 5
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 30},
            Usage(prompt_tokens=5, completion_tokens=25),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_cache_hit_tokens": 4},
            Usage(prompt_tokens=5, cached_prompt_tokens=4, completion_tokens=3),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(prompt_tokens=5, cached_prompt_tokens=5, completion_tokens=3),
        ),
    ],
)
async def test_usage_is_what_will_be_billed_and_a_bound_where_it_is_not_told(usage, expected):
    async with FakeServer(lambda *_: {**completion("a"), "usage": usage}) as server:
        backend = client_of(server)
        assert (await backend.send(ask(), here())).usage == expected
        await backend.close()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after_seconds(headers) == seconds


async def test_retry_after_reaches_the_fault():
    assert (await fault_of(refusal("slow", status=429, headers={"Retry-After": "3"}))).retry_after == 3.0


# --- what a model takes -------------------------------------------------------

PAYLOAD = {"temperature": 0, "max_tokens": 5, "n": 3, "response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("message", "parameter", "expected"),
    [
        # as OpenAI, vLLM, Mistral, Groq, Anthropic and pydantic-made servers word it
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            "max_tokens",
            "max_tokens",
        ),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            None,
            "max_tokens",
        ),
        (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is.",
            "temperature",
            "temperature",
        ),
        ("'n' : number must be 1", None, "n"),
        ("n > 1 is not supported", None, "n"),
        ("This server supports only one choice", None, "n"),
        (
            "Invalid parameter: 'response_format' of type 'json_object' is not supported with this model.",
            None,
            "response_format",
        ),
        ("JSON mode is not supported", None, "response_format"),
        ("temperature: Extra inputs are not permitted", None, "temperature"),
        ("Unrecognized request argument supplied: response_format", None, "response_format"),
        ("Unsupported parameter: 'logprobs'", "logprobs", None),
        ("max_tokens is too large: 5000. This model supports at most 4096 completion tokens", "max_tokens", None),
        ("2.5 is greater than the maximum of 2 - 'temperature'", "temperature", None),
        ("This model's maximum context length is 8192 tokens", "messages", None),
    ],
)
def test_an_error_tells_which_parameter_is_not_taken(message, parameter, expected):
    assert parameter_not_taken(message, parameter, PAYLOAD) == expected


def test_the_table_knows_reasoning_models():
    assert "temperature" not in known_dialect("o3-mini").payload(ask(model="o3-mini"))
    assert known_dialect("gpt-5-mini-2025-08-07").payload(ask())["max_completion_tokens"] == 100
    assert known_dialect("gpt-4o-mini").payload(ask())["max_tokens"] == 100
    assert known_dialect("gpt-5-chat-latest").payload(ask())["temperature"] == 1.0
    assert not known_dialect("claude-sonnet-4-5").n


def picky(body, headers, attempt):
    """A model that takes no temperature, no JSON mode, no `n`, and `max_completion_tokens` only."""
    for name, message in (
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        ("temperature", "Unsupported value: 'temperature' does not support 0.2. Only the default (1) is supported."),
        ("response_format", "'response_format' of type 'json_object' is not supported with this model."),
        ("n", "Unsupported parameter: 'n' must be 1"),
    ):
        if name in body:
            return refusal(message, type="invalid_request_error", param=name, code="unsupported_parameter")
    return completion(f"sample {headers['X-W4S-Sample']}")


async def test_what_a_model_does_not_take_is_learnt_once_and_n_is_asked_one_by_one(tmp_path, caplog):
    store = CallStore(tmp_path / "calls.sqlite")
    prices = PriceTable({"fake": Price(input=1, cached_input=1, output=1)})
    async with (
        FakeServer(picky) as server,
        MeteredExecutor(client_of(server), store, Budget(Caps(usd=1)), prices) as executor,
    ):
        got = await executor.complete(ask(n=3, temperature=0.2, json_mode=True), here())
        assert len(set(got.texts)) == 3
        refused = len(server.requests) - 3
        assert refused == 4
        assert set(server.requests[-1][0]) == {"model", "messages", "max_completion_tokens"}
        await executor.complete(ask("other", n=2, temperature=0.2, json_mode=True), here())
        assert len(server.requests) == 4 + 3 + 2
        summary = store.summary()
        assert summary.faults == {"not_accepted": 4}
        assert summary.total.prompt_tokens == 5 * 10
    await store.close()
    assert sum("is asked without it" in record.message for record in caplog.records) == 4


async def test_a_server_that_ignores_n_is_found_out_and_what_it_billed_is_booked(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    prices = PriceTable({"fake": Price(input=1, cached_input=1, output=1)})
    script = lambda body, headers, attempt: completion(headers["X-W4S-Sample"])  # noqa: E731
    async with (
        FakeServer(script) as server,
        MeteredExecutor(client_of(server), store, Budget(Caps(usd=1)), prices) as executor,
    ):
        got = await executor.complete(ask(n=3), here())
        assert len(set(got.texts)) == 3
        assert len(server.requests) == 4
        assert store.summary().total.completion_tokens == 4 * 20
    await store.close()


async def test_without_any_limit_on_the_completion_no_cap_could_hold():
    def script(body, headers, attempt):
        name = next(name for name in body if name.startswith("max_"))
        return refusal(f"Unsupported parameter: '{name}'", param=name)

    async with FakeServer(script) as server:
        backend = client_of(server)
        with pytest.raises(NotAcceptedFault):
            await backend.send(ask(), here())
        with pytest.raises(BadRequestFault, match="no cap could hold"):
            await backend.send(ask(), here())
        await backend.close()


async def test_faults_on_the_wire_change_no_reply(tmp_path):
    def script(body, headers, attempt):
        faults = [
            refusal("slow", status=429, headers={"Retry-After": "0"}),
            Answer(completion("x"), how="cut"),
            refusal("boom", status=500),
            Answer(b"{"),
            completion(""),
        ]
        number = int(body["messages"][0]["content"])
        if attempt < number % 3:
            return faults[(number + attempt) % len(faults)]
        return completion(f"answer {number} {json.dumps(headers['X-W4S-Sample'])}")

    store = CallStore(tmp_path / "calls.sqlite")
    prices = PriceTable({"fake": Price(input=0, cached_input=0, output=0)})

    async def no_sleep(seconds):
        await asyncio.sleep(0)

    async with (
        FakeServer(script) as server,
        MeteredExecutor(client_of(server), store, Budget(Caps(usd=1)), prices, sleep=no_sleep) as executor,
    ):
        replies = await asyncio.gather(*(executor.complete(ask(str(i)), here()) for i in range(60)))
    assert [reply.texts[0] for reply in replies] == [f'answer {i} "0.0"' for i in range(60)]
    assert set(store.summary().faults) == {
        "rate_limited",
        "connection_cut",
        "server_error",
        "broken_body",
        "empty_reply",
    }
    await store.close()


# --- where the server is --------------------------------------------------------


def test_a_missing_key_is_one_line_and_loopback_needs_none(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=r"OPENAI_API_KEY is not set and https://api\.openai\.com/v1"):
        OpenAIBackend("m")
    for host in ("localhost:1", "127.0.0.1:8000", "[::1]:8000"):
        OpenAIBackend("m", base_url=f"http://{host}/v1")


async def test_the_environment_is_honoured(monkeypatch):
    async with FakeServer(lambda *_: completion("a")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        backend = OpenAIBackend("m")
        await backend.send(ask(), here())
        await backend.close()
        assert server.requests[0][1]["Authorization"] == "Bearer from-the-environment"


def test_a_model_without_a_name_is_refused():
    with pytest.raises(InputError, match="name is empty"):
        OpenAIBackend("", api_key="k")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "http://", "nonsense"])
def test_a_url_that_is_none_is_named(url):
    with pytest.raises(InputError, match="base_url"):
        OpenAIBackend("m", base_url=url, api_key="k")


@pytest.mark.parametrize("key", ["sk-\rx", "sk-\nx", "“sk-x”", "sk x"])
def test_a_key_that_no_header_could_carry_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY holds a character that no key has") as error:
        OpenAIBackend("m")
    assert "sk" not in str(error.value)


async def test_a_line_end_behind_a_key_is_no_part_of_it(monkeypatch):
    async with FakeServer(lambda *_: completion("a")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-x\r\n")
        backend = OpenAIBackend("m", base_url=server.base_url)
        await backend.send(ask(), here())
        await backend.close()
        assert server.requests[0][1]["Authorization"] == "Bearer sk-x"
