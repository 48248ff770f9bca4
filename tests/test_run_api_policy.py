"""A meta-agent behind an API: draws, keys and what it cannot know."""

import pytest
from fakes import FakeBackend, echo, reply

from w4s_jax.executor.base import RefusedFault
from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor
from w4s_jax.run.api_policy import ApiPolicy, call_context
from w4s_jax.types import DrawKey, InputError, Message, SamplingOptions, StopReason

KEYS = [DrawKey(0, 1, 2, 0, candidate, 0) for candidate in range(5)]
PROMPT = (Message(role="system", content="s"), Message(role="user", content="write a workflow"))


async def policy(path, script):
    store = CallStore(path / "calls.sqlite")
    backend = FakeBackend(script, simulated=True)
    return ApiPolicy(MeteredExecutor(backend, store, Budget(Caps()))), backend, store


async def test_each_draw_is_its_own_and_equal_keys_are_bought_once(tmp_path):
    api, backend, store = await policy(tmp_path, echo)
    context = api.open(PROMPT)
    first = await api.sample(context, KEYS, SamplingOptions())
    again = await api.sample(context, KEYS, SamplingOptions())
    assert len({sample.text for sample in first}) == 5
    assert [sample.text for sample in again] == [sample.text for sample in first]
    assert len(backend.sent) == 5
    request, place = backend.sent[0]
    assert (request.temperature, request.max_tokens, request.n) == (0.5, 4096, 1)
    assert place.purpose == "meta_agent"
    await store.close()


def test_unlike_keys_are_unlike_calls():
    keys = [DrawKey(*(i // 2**j % 2 for j in range(6))) for i in range(64)]
    places = {(call_context(key).sample_index, call_context(key).repetition) for key in keys}
    assert len(places) == 64
    assert all(0 <= index < 2**63 for index, _ in places)


async def test_a_dialogue_grows_by_the_action_and_what_follows(tmp_path):
    api, _, store = await policy(tmp_path, echo)
    action = api.encode_action("analysis and code")
    context = api.extend(api.open(PROMPT), action, [Message(role="user", content="feedback")])
    assert [(m.role, m.content) for m in context.messages] == [
        ("system", "s"),
        ("user", "write a workflow"),
        ("assistant", "analysis and code"),
        ("user", "feedback"),
    ]
    assert (context.prompt_ids, action.ids, action.logprobs) == ((), (), ())
    assert api.name == "api:fake"
    await store.close()


async def test_a_reply_that_ended_for_its_length_says_so(tmp_path):
    api, _, store = await policy(tmp_path, lambda *_: reply("half", finish="length"))
    (sample,) = await api.sample(api.open(PROMPT), KEYS[:1], SamplingOptions())
    assert sample.stop is StopReason.LENGTH
    await store.close()


async def test_a_prompt_that_the_model_refuses_is_bad_input(tmp_path):
    api, _, store = await policy(tmp_path, lambda *_: RefusedFault("maximum context length is 8192"))
    with pytest.raises(InputError, match="maximum context length is 8192"):
        await api.sample(api.open(PROMPT), KEYS, SamplingOptions())
    await store.close()
