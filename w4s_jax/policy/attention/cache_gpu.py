"""Attention of the newest tokens over the decode cache as a Pallas kernel for GPUs (Triton).

q, k, v of the newest token → **cached_attention** ← KVCache (shared prompts, own suffixes)

A loop in plain XLA asks the host after every block whether to go on; here each program
walks as much of its part of the cache as is filled, and only the parts' results meet
(flash-decoding: Dao, Haziza, Massa and Sizov, 2023, pytorch.org/blog/flash-decoding).
Samples of a prompt go through its keys together. A row's bits depend on nothing but
its own prompt and suffix.

`reference.decode_attention` is the dense reference.

Legend: G slots (one prompt each), M samples of a prompt, T prompt capacity, S tokens of
either cache, L layers, N query heads, K key/value heads, R = N / K, H head_dim, X caches of
one head, Q queries of a cache, P parts of a cache, C keys of a block.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w4s_jax.policy.attention.blocks import FLOOR, LOWEST, power_scale
from w4s_jax.policy.attention.tree_gpu import product
from w4s_jax.policy.attention.types import KVCache

_PART = 2048
"""Tokens of a cache that one program walks at most."""
_KEYS = 64
"""Tokens of a block; divides the capacity of a cache."""
_LEAST_ROWS = 16
"""Of a matrix product on tensor cores."""
Ref = Any
"""A Pallas reference."""


class _Sums(NamedTuple):
    """Softmaxes under way, float32; powers are of two."""

    out: Array
    """[..., H]."""
    highest: Array
    total: Array


def cached_attention(
    q_GMNH: Array,
    k_GMKH: Array,
    v_GMKH: Array,
    cache: KVCache,
    layer: Array,
    prompt_length_G: Array,
    suffix_length_G: Array,
    *,
    interpret: bool = False,
) -> Array:
    """Attends from the newest token of each sample to itself, its suffix and its prompt.

    Args:
        q_GMNH: Queries of the newest tokens.
        k_GMKH: Their keys, in the cache's dtype.
        v_GMKH: Their values.
        cache: Everything older; capacities are multiples of 64.
        layer: int32 [].
        prompt_length_G: int32, tokens in each prompt cache.
        suffix_length_G: int32, tokens in the suffix caches of each slot.
        interpret: Runs anywhere, slowly, for tests.

    Returns:
        [G, M, N, H] in the dtype of the queries.
    """
    slots, samples, heads, head_dim = q_GMNH.shape
    kv_heads = k_GMKH.shape[2]
    per_kv = heads // kv_heads
    q_GKMRH = jnp.moveaxis(q_GMNH.reshape(slots, samples, kv_heads, per_kv, head_dim), 1, 2)
    span = functools.partial(_span, layer=layer, interpret=interpret)

    def of_prompt(x_XPQ: Array) -> Array:
        """[G·K, P, M·R, …] → [P, G, K, M, R, …]."""
        parts, rest = x_XPQ.shape[1], x_XPQ.shape[3:]
        return jnp.moveaxis(x_XPQ.reshape(slots, kv_heads, parts, samples, per_kv, *rest), 2, 0)

    def of_suffix(x_XPQ: Array) -> Array:
        """[G·K·M, P, R, …] → [P, G, K, M, R, …]."""
        return jnp.moveaxis(x_XPQ.reshape(slots, kv_heads, samples, *x_XPQ.shape[1:]), 3, 0)

    q_XQH = q_GKMRH.reshape(slots * kv_heads, samples * per_kv, head_dim)
    prompt = span(q_XQH, cache.prompt_k_LGKTH, cache.prompt_v_LGKTH, jnp.repeat(prompt_length_G, kv_heads))
    q_XQH = q_GKMRH.reshape(slots * kv_heads * samples, per_kv, head_dim)
    lengths_X = jnp.repeat(suffix_length_G, kv_heads * samples)
    suffix = span(q_XQH, cache.suffix_k_LGKMSH, cache.suffix_v_LGKMSH, lengths_X)

    k_GKM1H, v_GKM1H = (jnp.swapaxes(x, 1, 2)[:, :, :, None].astype(jnp.float32) for x in (k_GMKH, v_GMKH))
    itself_GKMR = jnp.sum(q_GKMRH.astype(jnp.float32) * k_GKM1H, axis=-1) * power_scale(head_dim)
    newest = _Sums(jnp.broadcast_to(v_GKM1H, q_GKMRH.shape), itself_GKMR, jnp.ones_like(itself_GKMR))
    parts = [jax.tree.map(lambda x: x[None], newest), jax.tree.map(of_prompt, prompt), jax.tree.map(of_suffix, suffix)]
    sums: _Sums = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    weight_PGKMR = jnp.exp2(sums.highest - jnp.max(sums.highest, axis=0, keepdims=True))
    total_GKMR = jnp.sum(weight_PGKMR * sums.total, axis=0)
    out_GKMRH = jnp.sum(weight_PGKMR[..., None] * sums.out, axis=0) / total_GKMR[..., None]
    out_GMKRH = jnp.moveaxis(out_GKMRH, 2, 1)
    return out_GMKRH.reshape(q_GMNH.shape).astype(q_GMNH.dtype)


def _span(q_XQH: Array, k_LSH: Array, v_LSH: Array, length_X: Array, *, layer: Array, interpret: bool) -> _Sums:
    """Softmax sums of each part of X caches [L, …, S, H], of which a layer is read: [X, P, Q] and [X, P, Q, H]."""
    (caches, queries, head_dim), (layers, *_, size, _) = q_XQH.shape, k_LSH.shape
    parts, rows = pl.cdiv(size, _PART), max(_LEAST_ROWS, pl.next_power_of_2(queries))
    q_XQH = jnp.pad(q_XQH, ((0, 0), (0, rows - queries), (0, 0)))
    one = pl.BlockSpec((1,), lambda x, p: (0,))
    whole = pl.BlockSpec((layers, caches, size, head_dim), lambda x, p: (0, 0, 0, 0))
    shape_XPQ = (caches, parts, rows)
    of_query = pl.BlockSpec((None, None, rows), lambda x, p: (x, p, 0))
    out, highest, total = pl.pallas_call(
        _span_kernel,
        grid=(caches, parts),
        in_specs=[
            *(one, pl.BlockSpec((1,), lambda x, p: (x,))),
            *(pl.BlockSpec((None, rows, head_dim), lambda x, p: (x, 0, 0)), whole, whole),
        ],
        out_specs=[pl.BlockSpec((None, None, rows, head_dim), lambda x, p: (x, p, 0, 0)), of_query, of_query],
        out_shape=[
            jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*shape_XPQ, head_dim), shape_XPQ, shape_XPQ)
        ],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="span_kernel",
    )(jnp.reshape(layer, 1), length_X, q_XQH, *(x.reshape(layers, caches, size, head_dim) for x in (k_LSH, v_LSH)))
    return _Sums(out[:, :, :queries], highest[:, :, :queries], total[:, :, :queries])


def _span_kernel(
    layer_ref: Ref, length_ref: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref, out_ref: Ref, highest_ref: Ref, total_ref: Ref
) -> None:
    """One part of one cache."""
    cache, begin, layer = pl.program_id(0), pl.program_id(1) * _PART, layer_ref[0]
    q_QH, length = q_ref[...], length_ref[0]
    rows, head_dim = q_QH.shape
    blocks = pl.cdiv(jnp.clip(length - begin, 0, _PART), _KEYS)

    def step(c: Array, sums: _Sums) -> _Sums:
        first = begin + c * _KEYS
        at = pl.ds(first, _KEYS)
        scores_QC = product(q_QH, k_ref[layer, cache, at, :].astype(q_QH.dtype).T) * power_scale(head_dim)
        seen_C = first + jnp.arange(_KEYS) < length
        scores_QC = jnp.where(seen_C[None, :], scores_QC, LOWEST)
        highest_Q = jnp.maximum(sums.highest, jnp.max(scores_QC, axis=1))
        weights_QC = jnp.exp2(scores_QC - highest_Q[:, None])
        shrink_Q = jnp.exp2(sums.highest - highest_Q)
        v_CH = v_ref[layer, cache, at, :].astype(q_QH.dtype)
        out_QH = sums.out * shrink_Q[:, None] + product(weights_QC.astype(v_CH.dtype), v_CH)
        return _Sums(out_QH, highest_Q, sums.total * shrink_Q + jnp.sum(weights_QC, axis=1))

    nothing_Q = jnp.zeros(rows, jnp.float32)
    start = _Sums(jnp.zeros((rows, head_dim), jnp.float32), nothing_Q + FLOOR, nothing_Q)
    sums = lax.fori_loop(0, blocks, step, start)
    out_ref[...], highest_ref[...], total_ref[...] = sums
