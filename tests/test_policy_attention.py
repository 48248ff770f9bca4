import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w4s_jax.policy.attention import (
    Window,
    causal_attention,
    decode_attention,
    masked_softmax,
    tree_attention_reference,
    tree_gpu,
    tree_tpu,
)
from w4s_jax.policy.attention.blocks import flat_pairs, row_pairs
from w4s_jax.policy.attention.tree_xla import tree_attention

BLOCKWISE = functools.partial(tree_attention, block=4)
TPU = functools.partial(tree_tpu.tree_attention, block=128, interpret=True)
GPU = functools.partial(
    tree_gpu.tree_attention,
    tiles=tree_gpu.Tiles(*[tree_gpu.Tile(32, 16)] * 2, tree_gpu.Tile(16, 32)),
    interpret=True,
)
over_kernels = pytest.mark.parametrize("kernel", [TPU, GPU], ids=["tpu", "gpu"])
over_trees = pytest.mark.parametrize("attention", [tree_attention_reference, BLOCKWISE], ids=["dense", "blockwise"])

N, K, H = 4, 2, 8

# Two turns, m = 3 and 2:   s s s | a a | f f | c c | d d d | b | e e | pad pad
# s opens; a (best), b, e branch from s; f follows a; c (best) and d branch from f. Trunk first, branches backwards.
PATHS = {
    "c": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "d": [0, 1, 2, 3, 4, 5, 6, 9, 10, 11],
    "b": [0, 1, 2, 12],
    "e": [0, 1, 2, 13, 14],
}
EXPIRY = [15, 15, 15, 12, 12, 12, 12, 9, 9, 12, 12, 12, 13, 15, 15, 0, 0]
LENGTH = len(EXPIRY)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def visible_by_paths():
    """[query, key], from the paths alone: a query sees what lies before it on its own path."""
    sees = np.zeros((LENGTH, LENGTH), bool)
    for path in PATHS.values():
        for depth, query in enumerate(path):
            sees[query, path[: depth + 1]] = True
    return sees


def attention_in_float64(q, k, v, sees):
    """One head at a time, row by row; a row that sees nothing is zero."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for head in range(q.shape[1]):
        keys, values = k[:, head // (N // K)], v[:, head // (N // K)]
        for row in np.flatnonzero(sees.any(axis=1)):
            scores = keys[sees[row]] @ q[row, head] / np.sqrt(H)
            weights = np.exp(scores - scores.max())
            out[row, head] = weights @ values[sees[row]] / weights.sum()
    return out


def qkv(length, seed=0, rows=1):
    return (
        draw(rows, length, N, H, seed=seed),
        draw(rows, length, K, H, seed=seed + 1),
        draw(rows, length, K, H, seed=seed + 2),
    )


@over_trees
def test_tree_attention_equals_a_float64_loop_over_the_paths(attention):
    q, k, v = qkv(LENGTH)
    out = attention(q, k, v, jnp.asarray([EXPIRY], jnp.int32))
    np.testing.assert_allclose(out[0], attention_in_float64(q[0], k[0], v[0], visible_by_paths()), atol=2e-6)


@over_trees
def test_every_branch_of_a_tree_equals_a_causal_row_of_its_own(attention):
    q, k, v = qkv(LENGTH)
    out = np.asarray(attention(q, k, v, jnp.asarray([EXPIRY], jnp.int32)))
    for path in PATHS.values():
        alone = causal_attention(q[:, path], k[:, path], v[:, path], jnp.asarray([len(path)]))
        np.testing.assert_allclose(out[:, path], alone, atol=1e-6)


@over_trees
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_a_window_runs_along_the_path_and_not_along_the_row(attention, size):
    q, k, v = qkv(LENGTH)
    depth, sees = np.zeros(LENGTH, np.int32), visible_by_paths()
    for path in PATHS.values():
        depth[path] = np.arange(len(path))
    near = sees & (depth[:, None] - depth[None, :] < size)
    assert near.sum() == sees.sum() if size == 100 else near[12, 2] == (size > 1)  # b follows s, nine indices before it
    window = Window(jnp.asarray(depth[None]), jnp.int32(size))
    out = jax.jit(attention)(q, k, v, jnp.asarray([EXPIRY], jnp.int32), window)
    np.testing.assert_allclose(out[0], attention_in_float64(q[0], k[0], v[0], near), atol=2e-6)
    flows = jax.jit(jax.jacrev(lambda v: attention(q, k, v, jnp.asarray([EXPIRY]), window).sum((0, 2, 3))))(v)
    np.testing.assert_array_equal(np.abs(np.asarray(flows)).sum((1, 3, 4)) > 0, near)


@over_trees
def test_gradients_are_exactly_zero_where_a_query_may_not_see(attention):
    q, k, v = qkv(LENGTH)
    expiry = jnp.asarray([EXPIRY], jnp.int32)
    # [query, key] from the sum over a query's head dims to all dims of a key or value.
    to_k, to_v = jax.jacrev(lambda k, v: attention(q, k, v, expiry).sum((0, 2, 3)), (0, 1))(k, v)
    sees = visible_by_paths()
    flows = np.abs(np.asarray(to_v)).sum((1, 3, 4))
    assert np.all(flows[~sees] == 0.0)
    assert np.all(flows[sees] > 0.0)
    assert np.all(np.abs(np.asarray(to_k)).sum((1, 3, 4))[~sees] == 0.0)


@over_trees
def test_padding_gives_zeros_and_no_gradient_even_for_wild_values(attention):
    q, k, v = (np.array(x) for x in qkv(LENGTH))
    for x in (q, k, v):
        x[:, -2:] = 1e30
    expiry = jnp.asarray([EXPIRY], jnp.int32)
    out = attention(q, k, v, expiry)
    assert np.all(np.asarray(out[:, -2:]) == 0.0)
    grads = jax.grad(lambda q, k, v: jnp.sum(jnp.sin(attention(q, k, v, expiry))), (0, 1, 2))(q, k, v)
    for grad in grads:
        assert np.all(np.isfinite(grad))
        assert np.all(np.asarray(grad[:, -2:]) == 0.0)


def random_rows(rng, rows, length):
    """Rows packed with trees whose expiries nest at random, and padding at the end; int32 [rows, length]."""

    def subtree(start, end):
        expiry[start:end] = np.minimum(expiry[start:end], end)
        if end - start > 3:
            cuts = np.sort(rng.integers(start + 1, end, size=rng.integers(0, 4)))
            for a, b in zip(cuts, [*cuts, end][1:], strict=True):
                if b - a < end - start:
                    subtree(a, b)

    drawn = []
    for _ in range(rows):
        expiry = np.full(length, length, np.int32)
        starts = np.unique(np.append(0, rng.integers(0, length, size=3)))
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            subtree(start, end)
        padding = rng.integers(0, length // 3)
        expiry[length - padding :] = 0
        drawn.append(np.minimum(expiry, length - padding))
    return np.stack(drawn)


@pytest.mark.parametrize(("length", "block", "size"), [(37, 8, 3), (65, 16, 20)])
def test_windowed_blocks_and_their_gradients_equal_the_dense_ones_over_random_trees(length, block, size):
    expiry = random_rows(np.random.default_rng(length), 2, length)
    index = np.arange(length)
    sees = (index <= index[:, None]) & (index[:, None] < expiry[:, None])
    window = Window(jnp.asarray(np.maximum(sees.sum(-1) - 1, 0), jnp.int32), jnp.int32(size))
    q, k, v = qkv(length, rows=2)

    def both(attention):
        def total(q, k, v):
            return jnp.sum(jnp.sin(attention(q, k, v, jnp.asarray(expiry), window)))

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)

    ours, theirs = both(functools.partial(tree_attention, block=block)), both(tree_attention_reference)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-5)


def test_blocks_behind_the_window_are_not_visited():
    """One path of 8 tokens, a window of 2: blocks of two tokens see themselves and the one before."""
    pairs = row_pairs(jnp.full(8, 8, jnp.int32), 2, jnp.arange(8, dtype=jnp.int32), jnp.int32(2))
    seen = list(zip(np.asarray(pairs.major)[: pairs.total], np.asarray(pairs.minor)[: pairs.total], strict=True))
    assert seen == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]


@pytest.mark.parametrize(("length", "block"), [(37, 8), (64, 16), (65, 16), (5, 8), (40, 1)])
def test_blockwise_attention_and_its_gradients_equal_the_dense_ones_over_random_trees(length, block):
    expiry = jnp.asarray(random_rows(np.random.default_rng(length), 3, length))
    q, k, v = qkv(length, rows=3)
    pull = draw(3, length, N, H, seed=9)
    for ours, dense in zip(
        with_gradients(functools.partial(tree_attention, block=block), q, k, v, expiry, pull),
        with_gradients(tree_attention_reference, q, k, v, expiry, pull),
        strict=True,
    ):
        np.testing.assert_allclose(ours, dense, atol=3e-6)


@over_kernels
@pytest.mark.parametrize(("length", "heads", "head_dim"), [(300, (4, 2), 16), (129, (3, 1), 32), (40, (2, 2), 16)])
def test_kernels_and_their_gradients_equal_the_dense_ones_over_random_trees(kernel, length, heads, head_dim):
    expiry = jnp.asarray(random_rows(np.random.default_rng(length), 2, length))
    q, k, v = (draw(2, length, n, head_dim, seed=n + i) for i, n in enumerate((heads[0], heads[1], heads[1])))
    pull = draw(2, length, heads[0], head_dim, seed=9)
    for ours, dense in zip(
        with_gradients(kernel, q, k, v, expiry, pull),
        with_gradients(tree_attention_reference, q, k, v, expiry, pull),
        strict=True,
    ):
        np.testing.assert_allclose(ours, dense, atol=5e-6)


@over_kernels
def test_kernels_in_bfloat16_stay_within_its_rounding_of_float32(kernel):
    expiry = jnp.asarray(random_rows(np.random.default_rng(3), 1, 200))
    q, k, v, pull = (draw(1, 200, n, 16, seed=i).astype(jnp.bfloat16) for i, n in enumerate((4, 2, 2, 4)))
    exact = with_gradients(tree_attention_reference, *(x.astype(jnp.float32) for x in (q, k, v)), expiry, pull)
    for ours, wide in zip(with_gradients(kernel, q, k, v, expiry, pull), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        # Eight bits of mantissa, on sums of order one to ten.
        assert np.max(np.abs(np.asarray(ours, np.float32) - wide)) < 2**-8 * 8


@over_kernels
def test_kernels_give_zeros_for_padding_even_for_wild_values(kernel):
    q, k, v = (np.array(x) for x in qkv(LENGTH))
    for x in (q, k, v):
        x[:, -2:] = 1e30
    expiry = jnp.asarray([EXPIRY], jnp.int32)
    out, *grads = with_gradients(kernel, q, k, v, expiry, draw(1, LENGTH, N, H))
    for array in (out, *grads):
        assert np.all(np.isfinite(array))
        assert np.all(np.asarray(array[:, -2:]) == 0.0)


def with_gradients(attention, q, k, v, expiry, pull):
    """Output and the gradients of q, k, v."""

    def run(q, k, v):
        out, backward = jax.vjp(lambda q, k, v: attention(q, k, v, expiry), q, k, v)
        return out, *backward(pull.astype(out.dtype))

    return jax.jit(run)(*map(jnp.asarray, (q, k, v)))


def test_masked_scores_far_above_the_visible_ones_do_not_overflow():
    q, k, v = (np.array(x) for x in qkv(8))
    q[:, 4:], k[:, :4] = 1e4, 1e4  # the second tree's queries would love the first tree's keys
    expiry = jnp.asarray([[4] * 4 + [8] * 4], jnp.int32)
    for grad in jax.grad(lambda q, k, v: jnp.sum(jnp.sin(BLOCKWISE(q, k, v, expiry))), (0, 1, 2))(q, k, v):
        assert np.all(np.isfinite(grad))


def test_only_block_pairs_with_something_to_see_are_computed():
    # Two trees of 8 in blocks of 4, the second with a branch that ends after its first block, then padding.
    expiry = jnp.asarray([8] * 8 + [12] * 4 + [16] * 4 + [0] * 8, jnp.int32)
    assert listed(row_pairs(expiry, 4)) == [(0, 0), (1, 0), (1, 1), (2, 2), (3, 3)]


def test_the_pairs_of_all_rows_are_one_list_in_which_no_block_is_missing():
    expiry = jnp.asarray([[8] * 8 + [0] * 4, [4] * 4 + [12] * 8], jnp.int32)
    diagonal_of_padding, second_row = (2, 2), [(3, 0), (4, 1), (5, 1), (5, 2)]
    assert listed(flat_pairs(expiry, 4)[0]) == [(0, 0), (1, 0), (1, 1), diagonal_of_padding, *second_row]
    by_key = [(0, 0), (0, 1), (1, 1), (2, 2), (3, 0), (4, 1), (4, 2), (5, 2)]
    assert listed(flat_pairs(expiry, 4, by_key=True)[0]) == by_key


def listed(pairs):
    return list(zip(pairs.major.tolist(), pairs.minor.tolist(), strict=True))[: int(pairs.total)]


def test_softmax_of_an_empty_row_is_zero_with_zero_gradient():
    scores, mask = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[True, True], [False, False]])
    np.testing.assert_allclose(
        masked_softmax(scores, mask), [[1 / (1 + np.e), np.e / (1 + np.e)], [0.0, 0.0]], rtol=1e-6
    )
    grad = jax.grad(lambda s: jnp.sum(masked_softmax(s, mask)[:, 0]))(scores)
    p = np.e / (1 + np.e) ** 2
    np.testing.assert_allclose(grad, [[p, -p], [0.0, 0.0]], atol=1e-7)


def test_rows_of_different_lengths_ignore_their_padding():
    q, k, v = qkv(6, rows=2)
    out = causal_attention(q, k, v, jnp.asarray([6, 4]))
    short = causal_attention(q[1:, :4], k[1:, :4], v[1:, :4], jnp.asarray([4]))
    np.testing.assert_allclose(out[1:, :4], short, atol=1e-6)
    assert np.all(np.asarray(out[1, 4:]) == 0.0)


def test_samples_of_a_shared_prompt_decode_as_if_each_had_its_own():
    groups, samples, prompt, suffix = 2, 3, 5, 4
    prompt_lengths, suffix_lengths = np.array([5, 3]), np.array([[1, 4, 2], [3, 1, 4]])
    q = draw(groups, samples, N, H)
    prompt_k, prompt_v = draw(groups, prompt, K, H, seed=1), draw(groups, prompt, K, H, seed=2)
    suffix_k = draw(groups, samples, suffix, K, H, seed=3)
    suffix_v = draw(groups, samples, suffix, K, H, seed=4)
    out = decode_attention(q, prompt_k, prompt_v, prompt_lengths, suffix_k, suffix_v, suffix_lengths)
    for g in range(groups):
        for m in range(samples):
            p, s = prompt_lengths[g], suffix_lengths[g, m]
            keys = np.concatenate([prompt_k[g, :p], suffix_k[g, m, :s]])
            values = np.concatenate([prompt_v[g, :p], suffix_v[g, m, :s]])
            alone = attention_in_float64(q[g, m][None], keys, values, np.ones((1, p + s), bool))
            np.testing.assert_allclose(out[g, m], alone[0], atol=2e-6)


def test_an_idle_slot_decodes_to_zeros():
    q = draw(1, 2, N, H)
    keys = np.full((1, 3, K, H), np.nan, np.float32)
    empty = np.zeros((1, 2, 2, K, H), np.float32)
    out = decode_attention(q, np.zeros_like(keys), np.zeros_like(keys), np.array([0]), empty, empty, np.zeros((1, 2)))
    assert np.all(np.asarray(out) == 0.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_output_has_the_dtype_of_the_queries(dtype):
    q, k, v = (jnp.asarray(x, dtype) for x in qkv(LENGTH))
    assert tree_attention_reference(q, k, v, jnp.asarray([EXPIRY], jnp.int32)).dtype == dtype
