"""Attention over packed token trees as Pallas kernels for GPUs (Triton), forward and backward.

q, k, v (after RoPE), expiry → **tree_attention** → out        (called by the Transformer as `attend`)

One program a block and head walks the list of the blocks it has something to do with;
the mask is computed from `expiry` inside the kernel. Three kernels: the output with its
log-sum-exp, the gradient of the queries (a program a block of queries), the gradients of
keys and values (a program a block of keys, over all query heads that share them). The
online softmax is that of Milakov & Gimelshein (arXiv 1805.02867), the backward pass that
of Dao et al. (arXiv 2205.14135).

Legend: B rows, T tokens of a row, N query heads, K key/value heads, R = N / K, H
head_dim, C queries of a block, S keys of a block, I blocks of queries, J blocks of keys.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w4s_jax.policy.tree_blocks import LOWEST, lists, padded, visible_blocks

_WARPS, _STAGES = 4, 2
Ref = Any
"""A Pallas reference."""


class Blocks(NamedTuple):
    """Tokens of the blocks; powers of two of at least 16."""

    queries: int = 128
    keys: int = 64
    backward: int = 64
    """Of queries and of keys, in the backward kernels."""


def tree_attention(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    expiry_BT: Array,
    *,
    blocks: Blocks = Blocks(),  # noqa: B008 - a tuple of numbers
    interpret: bool = False,
) -> Array:
    """Attention over packed token trees: key k is visible to query q ⇔ k ≤ q < expiry[k].

    Args:
        q_BTNH: Queries [B, T, N, H], H a power of two.
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; 0 for padding.
        blocks: They decide rounding and speed, not what is seen.
        interpret: Runs anywhere, slowly, for tests.

    Returns:
        [B, T, N, H] in the dtype of the queries; zeros, with zero gradients, where a query sees nothing.
    """
    length = q_BTNH.shape[1]
    q_BNTH, k_BKTH, v_BKTH = (jnp.swapaxes(padded(x, max(blocks)), 1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    out_BNTH: Array = _attention(q_BNTH, k_BKTH, v_BKTH, padded(expiry_BT, max(blocks)), blocks, interpret)
    return jnp.swapaxes(out_BNTH, 1, 2)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, blocks: Blocks, interpret: bool) -> Array:
    return _forward(q_BNTH, k_BKTH, v_BKTH, expiry_BT, blocks, interpret)[0]


def _forward(
    q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, blocks: Blocks, interpret: bool
) -> tuple[Array, Any]:
    batch, heads, length, _ = q_BNTH.shape
    of = _ByQuery(q_BNTH.shape, heads // k_BKTH.shape[1], blocks.queries)
    out_BNTH, logsum_BNT = _call(
        functools.partial(_forward_kernel, keys=blocks.keys),
        grid=of.grid,
        inputs=[
            *((of.q, q_BNTH), (of.k, k_BKTH), (of.k, v_BKTH), (of.expiry, expiry_BT)),
            *_walked(visible_blocks(expiry_BT, blocks.queries, blocks.keys)),
        ],
        outputs=[(of.q, q_BNTH), (of.statistic, jax.ShapeDtypeStruct((batch, heads, length), jnp.float32))],
        interpret=interpret,
    )
    return out_BNTH, (q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BNT)


def _backward(blocks: Blocks, interpret: bool, saved: Any, d_out_BNTH: Array) -> tuple[Array, Array, Array, np.ndarray]:
    q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BNT = saved
    kv_heads, block = k_BKTH.shape[1], blocks.backward
    dot_BNT = jnp.sum(d_out_BNTH.astype(jnp.float32) * out_BNTH.astype(jnp.float32), axis=-1)
    visible_BIJ = visible_blocks(expiry_BT, block)

    of = _ByQuery(q_BNTH.shape, q_BNTH.shape[1] // kv_heads, block)
    (dq_BNTH,) = _call(
        functools.partial(_query_gradient_kernel, keys=block),
        grid=of.grid,
        inputs=[
            *((of.q, q_BNTH), (of.k, k_BKTH), (of.k, v_BKTH), (of.expiry, expiry_BT), (of.q, d_out_BNTH)),
            *((of.statistic, logsum_BNT), (of.statistic, dot_BNT)),
            *_walked(visible_BIJ),
        ],
        outputs=[(of.q, q_BNTH)],
        interpret=interpret,
    )

    by = _ByKey(k_BKTH.shape, block)
    grouped = functools.partial(_by_kv_head, kv_heads=kv_heads)
    q_BKRTH, d_out_BKRTH, logsum_BKRT, dot_BKRT = map(grouped, (q_BNTH, d_out_BNTH, logsum_BNT, dot_BNT))
    dk_BKTH, dv_BKTH = _call(
        functools.partial(_key_gradient_kernel, queries=block),
        grid=by.grid,
        inputs=[
            *((by.group(q_BKRTH), q_BKRTH), (by.k, k_BKTH), (by.k, v_BKTH), (by.expiry, expiry_BT)),
            *((by.group(x), x) for x in (d_out_BKRTH, logsum_BKRT, dot_BKRT)),
            *_walked(jnp.swapaxes(visible_BIJ, 1, 2)),
        ],
        outputs=[(by.k, k_BKTH), (by.k, v_BKTH)],
        interpret=interpret,
    )
    return dq_BNTH, dk_BKTH, dv_BKTH, np.zeros(expiry_BT.shape, jax.dtypes.float0)


_attention.defvjp(_forward, _backward)


# --- which program takes which part ---------------------------------------------


class _ByQuery:
    """Programs (block of queries, query head, row); keys and values of the whole row are at hand."""

    def __init__(self, shape_BNTH: tuple[int, ...], per_kv: int, block: int) -> None:
        batch, heads, length, head_dim = shape_BNTH
        self.grid = (length // block, heads, batch)
        self.q = pl.BlockSpec((None, None, block, head_dim), lambda i, n, b: (b, n, i, 0))
        self.k = pl.BlockSpec((None, None, length, head_dim), lambda i, n, b: (b, n // per_kv, 0, 0))
        self.expiry = pl.BlockSpec((None, length), lambda i, n, b: (b, 0))
        self.statistic = pl.BlockSpec((None, None, block), lambda i, n, b: (b, n, i))


class _ByKey:
    """Programs (block of keys, key head, row); the queries of the whole row and all its heads are at hand."""

    def __init__(self, shape_BKTH: tuple[int, ...], block: int) -> None:
        batch, kv_heads, length, head_dim = shape_BKTH
        self.grid = (length // block, kv_heads, batch)
        self.k = pl.BlockSpec((None, None, block, head_dim), lambda j, k, b: (b, k, j, 0))
        self.expiry = pl.BlockSpec((None, block), lambda j, k, b: (b, j))

    def group(self, x_BKRT: Array) -> pl.BlockSpec:
        """All of a key head's queries [B, K, R, T, …]."""
        rest = x_BKRT.shape[2:]
        return pl.BlockSpec((None, None, *rest), lambda j, k, b: (b, k, *(0 for _ in rest)))


def _walked(visible: Array) -> list[tuple[pl.BlockSpec, Array]]:
    """The list that each program walks, of [rows, blocks, blocks], and how far."""
    list_, count = lists(visible)
    return [
        (pl.BlockSpec((None, None, list_.shape[2]), lambda block, _, b: (b, block, 0)), list_),
        (pl.BlockSpec((None, count.shape[1]), lambda block, _, b: (b, 0)), count),
    ]


def _call(
    kernel: functools.partial[None],
    *,
    grid: tuple[int, ...],
    inputs: Sequence[tuple[pl.BlockSpec, Array]],
    outputs: Sequence[tuple[pl.BlockSpec, Any]],
    interpret: bool,
) -> tuple[Array, ...]:
    """Runs a kernel; outputs have the shape and dtype of what they are given with."""
    results: tuple[Array, ...] = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[spec for spec, _ in inputs],
        out_specs=[spec for spec, _ in outputs],
        out_shape=[jax.ShapeDtypeStruct(like.shape, like.dtype) for _, like in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
        interpret=interpret,
        name=kernel.func.__name__.strip("_"),
    )(*(array for _, array in inputs))
    return results


def _by_kv_head(x_BNT: Array, kv_heads: int) -> Array:
    """[B, N, T, …] → [B, K, R, T, …]."""
    batch, heads, *rest = x_BNT.shape
    return x_BNT.reshape(batch, kv_heads, heads // kv_heads, *rest)


# --- the kernels ----------------------------------------------------------------


def _forward_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, list_ref: Ref, count_ref: Ref,
    out_ref: Ref, logsum_ref: Ref, *, keys: int,
) -> None:  # fmt: skip
    """Output and log-sum-exp of one block of queries."""
    block, head_dim = q_ref.shape
    i, q = pl.program_id(0), q_ref[...]

    def step(p: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out_CH, highest_C, total_C = sums
        at = pl.ds(list_ref[p] * keys, keys)
        mask_CS = _mask(i * block, block, list_ref[p] * keys, expiry_ref[at])
        scores_CS = jnp.where(mask_CS, _scores(q, k_ref[at, :]), LOWEST)
        new_C = jnp.maximum(highest_C, jnp.max(scores_CS, axis=1))
        weights_CS = jnp.where(mask_CS, jnp.exp(scores_CS - new_C[:, None]), 0.0)
        shrink_C = jnp.exp(highest_C - new_C)
        v_SH = v_ref[at, :]
        values_CH = _product(weights_CS.astype(v_SH.dtype), v_SH)
        return out_CH * shrink_C[:, None] + values_CH, new_C, total_C * shrink_C + jnp.sum(weights_CS, axis=1)

    zeros_C = jnp.zeros(block, jnp.float32)
    start = (jnp.zeros((block, head_dim), jnp.float32), zeros_C + LOWEST, zeros_C)
    out_CH, highest_C, total_C = lax.fori_loop(0, count_ref[i], step, start)
    total_C = jnp.where(total_C > 0, total_C, 1.0)
    out_ref[...] = (out_CH / total_C[:, None]).astype(out_ref.dtype)
    logsum_ref[...] = highest_C + jnp.log(total_C)


def _query_gradient_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref,
    list_ref: Ref, count_ref: Ref, dq_ref: Ref, *, keys: int,
) -> None:  # fmt: skip
    """Gradient of one block of queries."""
    block, head_dim = q_ref.shape
    i, q, d_out, logsum_C, dot_C = pl.program_id(0), q_ref[...], d_out_ref[...], logsum_ref[...], dot_ref[...]

    def step(p: Array, dq_CH: Array) -> Array:
        at = pl.ds(list_ref[p] * keys, keys)
        k_SH = k_ref[at, :]
        mask_CS = _mask(i * block, block, list_ref[p] * keys, expiry_ref[at])
        weights_CS = _weights(mask_CS, _scores(q, k_SH), logsum_C)
        d_scores_CS = _score_gradients(weights_CS, d_out, v_ref[at, :], dot_C)
        return dq_CH + _product(d_scores_CS.astype(k_SH.dtype), k_SH)

    dq_CH = lax.fori_loop(0, count_ref[i], step, jnp.zeros((block, head_dim), jnp.float32))
    dq_ref[...] = (dq_CH * head_dim**-0.5).astype(dq_ref.dtype)


def _key_gradient_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref,
    list_ref: Ref, count_ref: Ref, dk_ref: Ref, dv_ref: Ref, *, queries: int,
) -> None:  # fmt: skip
    """Gradients of one block of keys and values, over the query heads that share them."""
    block, head_dim = k_ref.shape
    j, k, v, expiry_S = pl.program_id(0), k_ref[...], v_ref[...], expiry_ref[...]
    count = count_ref[j]

    def step(s: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        dk_SH, dv_SH = sums
        r, p = s // count, s % count
        at = pl.ds(list_ref[p] * queries, queries)
        q_CH, d_out_CH = q_ref[r, at, :], d_out_ref[r, at, :]
        mask_CS = _mask(list_ref[p] * queries, queries, j * block, expiry_S)
        weights_CS = _weights(mask_CS, _scores(q_CH, k), logsum_ref[r, at])
        d_scores_CS = _score_gradients(weights_CS, d_out_CH, v, dot_ref[r, at])
        dv_SH += _product(weights_CS.astype(d_out_CH.dtype), d_out_CH, over=0)
        dk_SH += _product(d_scores_CS.astype(q_CH.dtype), q_CH, over=0)
        return dk_SH, dv_SH

    zeros = jnp.zeros((block, head_dim), jnp.float32)
    dk_SH, dv_SH = lax.fori_loop(0, count * q_ref.shape[0], step, (zeros, zeros))
    dk_ref[...] = (dk_SH * head_dim**-0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv_SH.astype(dv_ref.dtype)


def _mask(first_query: Array, queries: int, first_key: Array, expiry_S: Array) -> Array:
    """Whether each query sees each key, bool [C, S]."""
    query_C1 = (first_query + jnp.arange(queries))[:, None]
    key_1S = (first_key + jnp.arange(expiry_S.shape[0]))[None, :]
    return (key_1S <= query_C1) & (query_C1 < expiry_S[None, :])


def _scores(q_CH: Array, k_SH: Array) -> Array:
    """Scaled scores, float32 [C, S]."""
    scores: Array = _product(q_CH, k_SH.T) * (q_CH.shape[-1] ** -0.5)
    return scores


def _weights(mask_CS: Array, scores_CS: Array, logsum_C: Array) -> Array:
    """Softmax weights, float32 [C, S]; a masked score may lie far above the log-sum-exp, where exp would be inf."""
    return jnp.exp(jnp.where(mask_CS, scores_CS - logsum_C[:, None], LOWEST))


def _score_gradients(weights_CS: Array, d_out_CH: Array, v_SH: Array, dot_C: Array) -> Array:
    """Gradients of the scaled scores, float32 [C, S]."""
    gradients: Array = weights_CS * (_product(d_out_CH, v_SH.T) - dot_C[:, None])
    return gradients


def _product(a: Array, b: Array, over: int = 1) -> Array:
    """Matrix product over axis `over` of `a` and the first of `b`, in float32; exact products of float32 inputs."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = (((over,), (0,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
