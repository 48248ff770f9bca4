"""Decoding against the plain forward pass, and its promise that bits do not depend on the load."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w4s_jax.policy import sharding
from w4s_jax.policy.attention import (
    KVCache,
    cache_gpu,
    causal_attention,
    decode_attention,
    tree_attention_reference,
)
from w4s_jax.policy.attention.cache_xla import cached_attention
from w4s_jax.policy.config import Family, LayerKind, ModelConfig
from w4s_jax.policy.generate import Generator, GeneratorConfig, Request, in_compute_dtype
from w4s_jax.policy.transformer import Transformer, init_variables, param_shapes
from w4s_jax.types import DrawKey, InputError, SamplingOptions, StopReason

VOCAB, END = 61, 3
MODEL = ModelConfig(
    family=Family.QWEN2,
    vocab_size=VOCAB,
    num_layers=2,
    embed_dim=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=40,
)
SHAPES = GeneratorConfig(
    cache_length=40, max_new_tokens=16, slots=4, samples_per_slot=2, chunk=4, prompt_bucket=16, block=8
)
NOBODY = DrawKey(seed=0, round=0, trajectory=0, turn=0, candidate=0, attempt=0)


@pytest.fixture(scope="module")
def model():
    return Transformer(config=MODEL, compute_dtype="float32", remat="none")


@pytest.fixture(scope="module")
def variables(model):
    """Weights large enough that the next token depends strongly on what came before."""
    return jax.tree.map(
        lambda x: x * 4.0 if x.ndim > 1 else x, jax.jit(init_variables, static_argnums=0)(model, jax.random.key(1))
    )


@pytest.fixture(scope="module")
def generator(model, variables):
    return Generator(model, variables, SHAPES, stop_ids=(END,))


def prompt_of(length, seed=0):
    return tuple(np.random.default_rng((seed, length)).integers(4, VOCAB, length).tolist())


def request(length, *, rows=2, seed=0, temperature=0.8, max_new_tokens=12):
    keys = [NOBODY._replace(seed=seed, trajectory=length, candidate=row) for row in range(rows)]
    return Request(
        prompt_of(length, seed), keys, SamplingOptions(temperature=temperature, max_new_tokens=max_new_tokens)
    )


def forward(model, variables, ids):
    """Logits [T, V] of the plain causal pass, padded to one length so that it compiles once."""
    tokens = jnp.zeros((1, 40), jnp.int32).at[0, : len(ids)].set(jnp.asarray(ids))
    return np.asarray(_forward(model, variables, tokens, jnp.int32(len(ids))))[: len(ids)]


def _plain(model, variables, tokens, length):
    def attend(q, k, v, cache, *window_size):
        return causal_attention(q, k, v, length[None], *window_size), ()

    hidden, _ = model.apply(variables, tokens, jnp.arange(tokens.shape[1])[None], attend)
    return model.apply(variables, hidden[0], method="unembed")


_forward = jax.jit(_plain, static_argnums=0)


def log_softmax(logits):
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def teacher_forced(model, variables, prompt, action):
    """Log-probabilities of an action under the plain pass, softmax in float64."""
    logprobs = log_softmax(forward(model, variables, (*prompt, *action)))
    return [logprobs[len(prompt) + i - 1, token] for i, token in enumerate(action)]


def drawn_cache(slots, samples, kv_heads, dim, prompt, suffix):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    cache = KVCache(
        *(draw(2, slots, kv_heads, prompt, dim) for _ in range(2)),
        *(draw(2, slots, kv_heads, samples, suffix, dim) for _ in range(2)),
    )
    q = draw(slots, samples, 2 * kv_heads, dim)
    return cache, (q, *(draw(slots, samples, kv_heads, dim) for _ in range(2)))


@pytest.mark.parametrize(
    ("attention", "dim", "prompt", "suffix", "window"),
    [
        (functools.partial(cached_attention, block=4), 8, 12, 8, ()),
        (functools.partial(cached_attention, block=4), 8, 12, 8, (3,)),
        (functools.partial(cached_attention, block=4), 8, 12, 8, (9,)),
        (functools.partial(cache_gpu.cached_attention, interpret=True), 16, 2048 + 128, 64, ()),
    ],
    ids=["xla", "xla, window 3", "xla, window 9", "gpu"],
)
def test_attention_over_the_cache_is_the_dense_reference_whatever_the_neighbours_need(
    attention, dim, prompt, suffix, window
):
    slots, samples = 3, 2
    cache, (q, k, v) = drawn_cache(slots, samples, 2, dim, prompt, suffix)
    attend = jax.jit(attention)
    lengths, steps = np.asarray([0, prompt, 5], np.int32), np.asarray([suffix - 1, 0, 4], np.int32)
    window = tuple(map(np.int32, window))
    out = attend(q, k, v, cache, np.int32(1), lengths, steps, *window)
    own = [np.moveaxis(x[1], 1, 3).copy() for x in cache[2:]]
    for x, newest in zip(own, (k, v), strict=True):
        x[np.arange(slots), :, steps] = newest
    ones = np.ones((1, samples), np.int32)
    shared = [np.moveaxis(x[1], 1, 2) for x in cache[:2]]
    expected = decode_attention(q, *shared, lengths, *own, (steps + 1)[:, None] * ones, *window)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    lengths = np.asarray([0, 1, 5], np.int32)  # slot 1 now needs one block
    fewer = attend(q, k, v, cache, np.int32(1), lengths, steps, *window)
    np.testing.assert_array_equal(np.asarray(fewer)[[0, 2]], np.asarray(out)[[0, 2]])


@pytest.mark.parametrize("samples", [1, 5])
def test_samples_of_a_prompt_attend_as_if_each_were_alone_in_the_gpu_kernel(samples):
    """bfloat16, seven query heads a key head: rows that fill up a matrix product change nothing."""
    cache, (_, k, v) = drawn_cache(2, samples, 2, 16, 128, 64)
    q = np.random.default_rng(1).normal(size=(2, samples, 14, 16)).astype(np.float32)
    lengths, steps = np.asarray([100, 3], np.int32), np.asarray([0, 40], np.int32)
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (q, k, v, cache))
    out = cache_gpu.cached_attention(*narrow, np.int32(0), lengths, steps, interpret=True)
    exact = cached_attention(q, k, v, cache, np.int32(0), lengths, steps, block=64)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.04)


def test_sampled_logprobs_are_those_of_the_plain_forward_pass(generator, model, variables):
    requests = [request(length) for length in (1, 2, 8, 9, 17, 28)]
    for asked, actions in zip(requests, generator.generate(requests), strict=True):
        for action in actions:
            expected = teacher_forced(model, variables, asked.prompt_ids, action.ids)
            np.testing.assert_allclose(action.logprobs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", ["", "data=2,fsdp=2,tensor=2"], ids=["alone", "on a mesh"])
def test_a_model_with_sliding_windows_samples_as_its_plain_forward_pass_says(spec):
    """A window of 5, prompts and actions beyond it, blocks of 8: some are behind the window, others partly."""
    kinds = (LayerKind.LOCAL, LayerKind.GLOBAL)
    config = dataclasses.replace(MODEL, family=Family.GEMMA3, layer_kinds=kinds, window=5, query_scale=12.0)
    plain, rng = Transformer(config=config, compute_dtype="float32", remat="none"), np.random.default_rng(0)
    variables = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), param_shapes(config))
    mesh = sharding.make_mesh(spec) if spec else None
    placed = variables if mesh is None else jax.device_put(variables, sharding.shardings(variables, mesh))
    generator = Generator(
        Transformer(config=config, mesh=mesh, compute_dtype="float32", remat="none"), placed, SHAPES, stop_ids=()
    )
    requests = [request(length) for length in (1, 4, 17, 28)]
    for asked, actions in zip(requests, generator.generate(requests), strict=True):
        for action in actions:
            expected = teacher_forced(plain, variables, asked.prompt_ids, action.ids)
            np.testing.assert_allclose(action.logprobs, expected, atol=1e-5, rtol=0)


def test_sampled_logprobs_are_those_of_the_tree_that_training_sees(generator, model, variables):
    asked = request(9, seed=5)
    [actions] = generator.generate([asked])
    prompt, (first, second) = asked.prompt_ids, (action.ids for action in actions)
    tokens = jnp.asarray([[*prompt, *first, *second]])
    length, middle, end = len(prompt), len(prompt) + len(first), tokens.shape[1]
    expiry = jnp.asarray([[end] * length + [middle] * len(first) + [end] * len(second)])
    positions = jnp.asarray([[*range(middle), *range(length, length + len(second))]])
    hidden, _ = model.apply(
        variables, tokens, positions, lambda q, k, v, _: (tree_attention_reference(q, k, v, expiry), ())
    )
    logprobs = log_softmax(np.asarray(model.apply(variables, hidden[0], method="unembed")))
    for action, start in zip(actions, (length, middle), strict=True):
        sources = [length - 1, *range(start, start + len(action.ids) - 1)]
        expected = [logprobs[source, token] for source, token in zip(sources, action.ids, strict=True)]
        np.testing.assert_allclose(action.logprobs, expected, atol=1e-5, rtol=0)


def test_greedy_decoding_equals_a_naive_loop(generator, model, variables):
    asked = request(7, rows=1, temperature=0.0)
    [[action]] = generator.generate([asked])
    ids = list(asked.prompt_ids)
    for _ in range(12):
        ids.append(int(np.argmax(forward(model, variables, ids)[-1])))
        if ids[-1] == END:
            break
    assert action.ids == tuple(ids[7:])


def test_decoded_tokens_and_prefilled_tokens_leave_the_same_cache(model, variables):
    generator = Generator(model, variables, SHAPES, stop_ids=())
    asked = request(6, rows=1, temperature=0.0)
    [[whole]] = generator.generate([asked])
    for cut in (1, 5, 11):
        prompt = (*asked.prompt_ids, *whole.ids[:cut])
        [[rest]] = generator.generate([asked._replace(prompt_ids=prompt)])
        assert rest.ids[: 12 - cut] == whole.ids[cut:]
        np.testing.assert_allclose(rest.logprobs[: 12 - cut], whole.logprobs[cut:], atol=1e-5, rtol=0)


def test_a_sample_has_the_same_bits_at_any_load_in_any_order_and_slot(model, variables, generator):
    requests = [request(1 + (7 * i) % 27, rows=1 + i % 2, seed=i, max_new_tokens=1 + (5 * i) % 13) for i in range(14)]
    alone = [generator.generate([asked])[0] for asked in requests]
    rng = np.random.default_rng(0)
    for chunk in (4, 3):  # the chunk decides when slots are refilled, and nothing else
        other = Generator(model, variables, GeneratorConfig(**{**vars(SHAPES), "chunk": chunk}), stop_ids=(END,))
        for _ in range(4):
            order = rng.permutation(len(requests))[: rng.integers(4, 15)]
            for index, actions in zip(order, other.generate([requests[i] for i in order]), strict=True):
                assert actions == alone[index]  # floats compare equal only when every bit is


def test_a_row_has_the_same_bits_in_another_row_of_its_slot(generator):
    asked = request(11, seed=2)
    [[first, second]] = generator.generate([asked])
    [[second_again, first_again]] = generator.generate([asked._replace(keys=asked.keys[::-1])])
    assert (first, second) == (first_again, second_again)
    assert generator.generate([asked._replace(keys=asked.keys[1:])]) == [[second]]


def test_every_part_of_a_draw_key_makes_another_draw(generator):
    base = request(5, rows=1, temperature=1.5)
    keys = [NOBODY, *(NOBODY._replace(**{name: 1}) for name in DrawKey._fields)]
    drawn = [generator.generate([base._replace(keys=[key])])[0][0].ids for key in keys]
    assert len(set(drawn)) == len(keys)


def test_draws_follow_the_tempered_softmax(generator, model, variables):
    prompt, temperature, count = prompt_of(4), 2.0, 600
    options = SamplingOptions(temperature=temperature, max_new_tokens=1)
    pairs = [[NOBODY._replace(trajectory=i, candidate=c) for c in range(2)] for i in range(count // 2)]
    drawn = [a.ids[0] for actions in generator.generate([Request(prompt, p, options) for p in pairs]) for a in actions]
    expected = count * np.exp(log_softmax(forward(model, variables, prompt)[-1] / temperature))
    observed = np.bincount(drawn, minlength=VOCAB)
    likely = expected > 5
    chi2 = np.sum((observed[likely] - expected[likely]) ** 2 / expected[likely])
    assert chi2 < likely.sum() + 4 * np.sqrt(2 * likely.sum())
    assert likely.sum() > 5


def test_a_sample_ends_with_its_end_of_turn_or_at_its_length(model, variables):
    asked = request(6, rows=1, temperature=0.0)
    endless = Generator(model, variables, SHAPES, stop_ids=())
    [[action]] = endless.generate([asked])
    assert (len(action.ids), action.stop) == (12, StopReason.LENGTH)
    stop = action.ids[4]
    first = action.ids.index(stop)
    stopping = Generator(model, variables, SHAPES, stop_ids=(0, stop))
    [[stopped]] = stopping.generate([asked])
    assert stopped.stop is StopReason.END_OF_TURN
    assert stopped.ids == action.ids[: first + 1]
    assert stopped.logprobs == action.logprobs[: first + 1]


def test_an_end_of_turn_at_the_last_allowed_token_is_an_end_of_turn(model, variables):
    asked = request(6, rows=1, temperature=0.0, max_new_tokens=1)
    [[action]] = Generator(model, variables, SHAPES, stop_ids=()).generate([asked])
    [[ended]] = Generator(model, variables, SHAPES, stop_ids=action.ids).generate([asked])
    assert (action.stop, ended.stop) == (StopReason.LENGTH, StopReason.END_OF_TURN)
    assert action.ids == ended.ids


def test_a_freed_slot_is_refilled_while_the_others_go_on(model, variables):
    generator = Generator(model, variables, SHAPES, stop_ids=())
    long = [request(5 + i, max_new_tokens=16) for i in range(2)]
    short = [request(7 + i, max_new_tokens=2) for i in range(5)]
    tickets = [generator.submit(asked) for asked in (*long, *short)]
    ended = []
    while generator.in_flight:
        ended.append(sorted(generator.step()))
    # Four slots: the short ones pass through two of them before the long ones have ended.
    assert ended[:3] == [tickets[2:4], tickets[4:6], tickets[6:]]
    assert ended[-1] == tickets[:2]
    assert generator.statistics.sampled_tokens == 2 * (2 * 16 + 5 * 2)
    assert generator.statistics.requests == 7


def test_a_withdrawn_request_frees_its_slot_and_leaves_the_others_alone(generator):
    requests = [request(4 + i, seed=9) for i in range(6)]
    expected = generator.generate(requests)
    tickets = [generator.submit(asked) for asked in requests]
    done = generator.step()
    generator.cancel(tickets[0])  # runs
    generator.cancel(tickets[5])  # waits
    generator.cancel(10**9)
    while generator.in_flight:
        done |= generator.step()
    for index in (1, 2, 3, 4):
        assert done[tickets[index]] == expected[index]
    assert generator.step() == {}


def test_what_does_not_fit_is_refused_with_the_numbers(generator, model, variables):
    with pytest.raises(InputError, match=r"30 tokens with max_new_tokens=12 makes 42.*cache_length=40"):
        generator.submit(request(30))
    with pytest.raises(InputError, match=r"max_new_tokens=17 is not in \[1, 16\]"):
        generator.submit(request(3, max_new_tokens=17))
    with pytest.raises(InputError, match="prompt is empty"):
        generator.submit(request(0))
    with pytest.raises(InputError, match="request of 3 samples; a slot takes 1 to 2"):
        generator.submit(request(3, rows=3))
    with pytest.raises(InputError, match="token 61, outside the model's vocabulary of 61"):
        generator.submit(request(3)._replace(prompt_ids=(VOCAB,)))
    with pytest.raises(InputError, match="temperature=nan"):
        generator.submit(request(3, temperature=float("nan")))
    with pytest.raises(InputError, match="part outside"):
        generator.submit(request(3)._replace(keys=[NOBODY._replace(seed=-1)]))
    with pytest.raises(InputError, match="cache_length=99999 exceeds the model's max_positions=32768"):
        Generator(model, variables, GeneratorConfig(**{**vars(SHAPES), "cache_length": 99_999}), stop_ids=())
    with pytest.raises(InputError, match="leaves no room for a prompt"):
        GeneratorConfig(**{**vars(SHAPES), "cache_length": 16, "max_new_tokens": 16})
    with pytest.raises(InputError, match="slots=0 is below 1"):
        GeneratorConfig(**{**vars(SHAPES), "slots": 0})
    with pytest.raises(InputError):  # nothing of a list with a bad request runs
        generator.generate([request(3), request(30)])
    assert generator.in_flight == 0


def test_a_prompt_that_just_fits_is_taken(generator, model, variables):
    asked = request(28, max_new_tokens=12, seed=3)
    for action in generator.generate([asked])[0]:
        expected = teacher_forced(model, variables, asked.prompt_ids, action.ids)
        np.testing.assert_allclose(action.logprobs, expected, atol=1e-5, rtol=0)


def test_parameters_change_between_requests_and_not_under_them(model, variables):
    generator, asked = Generator(model, variables, SHAPES, stop_ids=(END,)), request(6, temperature=0.0, rows=1)
    before = generator.generate([asked])
    changed = jax.tree.map(lambda x: x * 0.9, variables)
    generator.submit(asked)
    with pytest.raises(InputError, match="1 requests in flight"):
        generator.set_params(changed)
    while generator.in_flight:
        generator.step()
    generator.set_params(changed)
    [[action]] = generator.generate([asked])
    expected = teacher_forced(model, changed, asked.prompt_ids, action.ids)
    np.testing.assert_allclose(action.logprobs, expected, atol=1e-5, rtol=0)
    assert [[action]] != before
    with pytest.raises(InputError, match="other names or shapes"):
        generator.set_params(jax.tree.map(lambda x: x[:1], variables))


def test_a_sharded_model_samples_what_one_device_samples(generator, variables):
    mesh = sharding.make_mesh("data=2,fsdp=2,tensor=2")
    placed = jax.device_put(variables, sharding.shardings(variables, mesh))
    spread = Generator(
        Transformer(config=MODEL, mesh=mesh, compute_dtype="float32", remat="none"), placed, SHAPES, stop_ids=(END,)
    )
    requests = [request(3 + 2 * i, seed=i, max_new_tokens=6) for i in range(5)]
    for ours, theirs in zip(spread.generate(requests), generator.generate(requests), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.ids == b.ids
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    cache = spread._state.cache.suffix_k_LGKMSH
    assert cache.sharding.shard_shape(cache.shape) == (2, 1, 1, 2, 16, 8)


def test_casting_the_weights_once_changes_no_bit_of_a_bfloat16_model(variables):
    model = Transformer(config=MODEL, compute_dtype=jnp.bfloat16, remat="none")
    cast = in_compute_dtype(variables, jnp.bfloat16)
    kept = [
        jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(cast) if x.dtype == jnp.float32
    ]
    assert kept
    assert all("norm" in path for path in kept)
    np.testing.assert_array_equal(forward(model, cast, prompt_of(20)), forward(model, variables, prompt_of(20)))
