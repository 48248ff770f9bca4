"""The local policy: many asyncio tasks, one thread, and what happens when something goes wrong."""

import asyncio
import threading
import time

import jax
import pytest
from tiny_chat import CHATML, SPECIAL, byte_tokenizer

from w4s_jax.policy.chat import Chat
from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.generate import Generator, GeneratorConfig, Request
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.policy.transformer import Transformer, init_variables
from w4s_jax.types import DrawKey, InputError, Message, SamplingOptions, StopReason, W4sError

OPTIONS = SamplingOptions(temperature=1.0, max_new_tokens=10)
NOBODY = DrawKey(seed=0, round=0, trajectory=0, turn=0, candidate=0, attempt=0)


@pytest.fixture(scope="module")
def chat():
    return Chat(byte_tokenizer(CHATML, SPECIAL, eos_token="<|im_end|>"), name="tiny")


@pytest.fixture(scope="module")
def parts(chat):
    config = ModelConfig(
        vocab_size=chat.vocab_size, num_layers=1, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8
    )
    model = Transformer(config=config, compute_dtype="float32", remat="none")
    return model, jax.jit(init_variables, static_argnums=0)(model, jax.random.key(0))


@pytest.fixture
def policy(chat, parts):
    shapes = GeneratorConfig(
        cache_length=128, max_new_tokens=40, slots=2, samples_per_slot=2, chunk=2, prompt_bucket=128
    )
    policy = LocalPolicy(chat, Generator(*parts, shapes, stop_ids=chat.stop_ids), name="tiny", max_new_tokens=10)
    yield policy
    policy.close()


@pytest.fixture
def slow(monkeypatch):
    """Chunks that take long enough for something to happen meanwhile."""
    step = Generator.step
    monkeypatch.setattr(Generator, "step", lambda self: (time.sleep(0.02), step(self))[1])


def keys_of(trajectory, count):
    return [NOBODY._replace(trajectory=trajectory, candidate=candidate) for candidate in range(count)]


def opened(policy, index=0):
    return policy.open([Message(role="user", content=f"number {index}")])


async def test_tasks_that_sample_at_once_get_what_each_would_get_alone(policy):
    contexts = [opened(policy, index) for index in range(7)]
    calls = [(context, keys_of(i, 1 + i % 5), OPTIONS) for i, context in enumerate(contexts)]
    together = await asyncio.gather(*(policy.sample(*call) for call in calls))
    for call, samples in zip(calls, together, strict=True):
        assert await policy.sample(*call) == samples
        assert len(samples) == len(call[1])
        for sample in samples:
            assert len(sample.ids) == len(sample.logprobs) <= 10
            assert sample.text == policy.chat.decode(sample.ids)
    assert policy.statistics.sampled_tokens == 2 * sum(len(s.ids) for samples in together for s in samples)


async def test_a_dialogue_goes_on_from_the_sampled_ids(policy):
    context = opened(policy)
    [action] = await policy.sample(context, keys_of(0, 1), OPTIONS)
    longer = policy.extend(context, action, [Message(role="user", content="again")])
    assert longer.prompt_ids[: len(context.prompt_ids) + len(action.ids)] == context.prompt_ids + action.ids
    assert [message.role for message in longer.messages] == ["user", "assistant", "user"]
    repaired = policy.encode_action("def solver(agent, task): ...")
    assert (repaired.logprobs, repaired.stop) == ((), StopReason.END_OF_TURN)
    assert repaired.ids[-1] == policy.chat.end_of_turn
    again = policy.extend(context, repaired, [Message(role="user", content="again")])
    assert again.messages[1].content == repaired.text


async def test_a_cancelled_call_frees_its_slot_and_leaves_the_others_alone(policy, slow):
    expected = await policy.sample(opened(policy, 1), keys_of(1, 2), OPTIONS)
    long = SamplingOptions(temperature=1.0, max_new_tokens=40)
    doomed = [asyncio.create_task(policy.sample(opened(policy), keys_of(9, 2), long)) for _ in range(4)]
    kept = asyncio.create_task(policy.sample(opened(policy, 1), keys_of(1, 2), OPTIONS))
    await asyncio.sleep(0.01)
    for task in doomed:
        task.cancel()
    assert await kept == expected
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*doomed, return_exceptions=True))
    assert await policy.sample(opened(policy, 1), keys_of(1, 2), OPTIONS) == expected


async def test_a_bad_request_fails_alone(policy):
    good = asyncio.create_task(policy.sample(opened(policy), keys_of(0, 2), OPTIONS))
    with pytest.raises(InputError, match="temperature=-1"):
        await policy.sample(opened(policy), keys_of(0, 1), SamplingOptions(temperature=-1, max_new_tokens=4))
    assert len(await good) == 2


async def test_what_does_not_fit_is_refused_before_anything_is_queued(policy):
    text = "x y z " * 40
    with pytest.raises(InputError, match=r"max_new_tokens=10 makes \d+, which exceeds cache_length=128"):
        policy.open([Message(role="user", content=text)])
    with pytest.raises(InputError, match=r"max_new_tokens=41 is not in \[1, 40\]"):
        await policy.sample(opened(policy), keys_of(0, 1), SamplingOptions(max_new_tokens=41))


async def test_an_error_of_the_thread_reaches_every_caller_and_all_who_come_later(policy, monkeypatch):
    def broken(self):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Generator, "step", broken)
    calls = [policy.sample(opened(policy), keys_of(i, 1), OPTIONS) for i in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all("out of memory" in str(result) for result in results)
    with pytest.raises(W4sError, match=r"has failed.*out of memory"):
        await policy.sample(opened(policy), keys_of(0, 1), OPTIONS)


async def test_closing_fails_what_is_in_flight_and_ends_the_thread(policy, slow):
    call = asyncio.create_task(policy.sample(opened(policy), keys_of(0, 2), SamplingOptions(max_new_tokens=40)))
    await asyncio.sleep(0.01)
    policy.close()
    policy.close()
    with pytest.raises(W4sError, match="closed while it sampled"):
        await call
    with pytest.raises(W4sError, match="is closed"):
        await policy.sample(opened(policy), keys_of(0, 1), OPTIONS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("w4s-decode")]


async def test_parameters_are_swapped_between_rounds_only(policy, parts):
    _, variables = parts
    other = jax.tree.map(lambda x: x * 3, variables)
    before = await policy.sample(opened(policy), keys_of(0, 1), OPTIONS)
    call = asyncio.create_task(policy.sample(opened(policy), keys_of(0, 1), OPTIONS))
    await asyncio.sleep(0)
    with pytest.raises(InputError, match="in flight"):
        policy.set_params(other)
    assert await call == before
    policy.set_params(other)
    assert await policy.sample(opened(policy), keys_of(0, 1), OPTIONS) != before
    policy.set_params(variables)
    assert await policy.sample(opened(policy), keys_of(0, 1), OPTIONS) == before


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(chat, parts):
    config = ModelConfig(vocab_size=100, num_layers=1, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8)
    shapes = GeneratorConfig(cache_length=16, max_new_tokens=4, slots=1, samples_per_slot=1)
    with pytest.raises(InputError, match="tiny has 303 ids, but the model's vocabulary is 100"):
        LocalPolicy(
            chat,
            Generator(Transformer(config=config, compute_dtype="float32", remat="none"), parts[1], shapes, stop_ids=()),
            name="x",
        )


async def test_the_policy_is_a_thin_shell_around_the_generator(policy):
    context, keys = opened(policy, 3), keys_of(3, 2)
    samples = await policy.sample(context, keys, OPTIONS)
    [completions] = policy._generator.generate([Request(context.prompt_ids, keys, OPTIONS)])
    assert [(s.ids, s.logprobs, s.stop) for s in samples] == [tuple(c) for c in completions]
