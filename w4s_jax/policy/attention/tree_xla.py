"""Attention over packed token trees, block pair by block pair, in plain XLA.

q, k, v (after RoPE), expiry → **tree_attention** → out        (called by the Transformer as `attend`)

Only pairs of blocks in which some query sees some key are computed, forward and
backward: the work follows the trees, not the square of the row. A row's sums are
accumulated pair by pair (Milakov & Gimelshein, arXiv 1805.02867; Dao et al., arXiv
2205.14135), so neither scores nor masks of a whole row are ever held.

A sliding window runs along each token's path, by its position; blocks beyond it are skipped like the others.

`reference.tree_attention_reference` is the dense reference.

Legend: B rows, T tokens of a row, N query heads, K key/value heads, R = N / K,
H head_dim, C tokens of a block.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from w4s_jax.policy.attention.blocks import LOWEST, kept, padded, row_pairs
from w4s_jax.policy.attention.types import Window

BLOCK = 128


class _Row(NamedTuple):
    """One row's inputs, float32, padded to whole blocks; the queries are scaled."""

    q_KRTH: Array
    k_KTH: Array
    v_KTH: Array
    expiry_T: Array
    positions_T: Array | None
    """None where there is no window."""
    window_size: Array | None


def tree_attention(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    expiry_BT: Array,
    window: Window | None = None,
    *,
    block: int = BLOCK,
) -> Array:
    """Attention over packed token trees: key k is visible to query q ⇔ k ≤ q < expiry[k], and k is in q's window.

    Args:
        q_BTNH: Queries [B, T, N, H].
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; 0 for padding.
        window: None: a query sees its whole path.
        block: Tokens of a block; it decides rounding and speed, not what is seen.

    Returns:
        [B, T, N, H] in the dtype of the queries; zeros, with zero gradients, where a query sees nothing.
    """
    out_BTNH: Array = _attention(q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, block)
    return out_BTNH


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, expiry_BT: Array, window: Window | None, block: int
) -> Array:
    return _forward(q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, block)[0]


def _forward(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, expiry_BT: Array, window: Window | None, block: int
) -> tuple[Array, Any]:
    length = q_BTNH.shape[1]
    rows = _rows(q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, block)
    out_BKRTH, logsum_BKRT = lax.map(functools.partial(_row_forward, block=block), rows)
    out_BTNH = _join_heads(out_BKRTH)[:, :length].astype(q_BTNH.dtype)
    out_BTNH, logsum_BKRT = kept(out_BTNH, logsum_BKRT)
    return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, out_BTNH, logsum_BKRT)


def _row_forward(row: _Row, *, block: int) -> tuple[Array, Array]:
    """Output [K, R, T, H] and log of the softmax's denominator [K, R, T]."""
    pairs = row_pairs(row.expiry_T, block, row.positions_T, row.window_size)

    def step(p: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, j = pairs.major[p], pairs.minor[p]
        out, highest, total = (_block(x, i, 2, block) for x in sums)
        mask_CC = _mask(row, i, j, block)
        scores = jnp.where(mask_CC[None, None], _scores(row, i, j, block), LOWEST)
        new_highest = jnp.maximum(highest, jnp.max(scores, axis=-1))
        weights = jnp.where(mask_CC[None, None], jnp.exp(scores - new_highest[..., None]), 0.0)
        shrink = jnp.exp(highest - new_highest)
        values = jnp.einsum("krts,ksh->krth", weights, _block(row.v_KTH, j, 1, block))
        new = (out * shrink[..., None] + values, new_highest, total * shrink + jnp.sum(weights, axis=-1))
        return _put(sums[0], new[0], i, block), _put(sums[1], new[1], i, block), _put(sums[2], new[2], i, block)

    heads_KRT = row.q_KRTH.shape[:3]
    start = (jnp.zeros_like(row.q_KRTH), jnp.full(heads_KRT, LOWEST), jnp.zeros(heads_KRT))
    out, highest, total = lax.fori_loop(0, pairs.total, step, start)
    total = jnp.where(total > 0, total, 1.0)
    return out / total[..., None], highest + jnp.log(total)


def _backward(block: int, saved: Any, d_out_BTNH: Array) -> tuple[Any, ...]:
    q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, out_BTNH, logsum_BKRT = saved
    length, kv_heads, head_dim = q_BTNH.shape[1], k_BTKH.shape[2], q_BTNH.shape[-1]
    rows = _rows(q_BTNH, k_BTKH, v_BTKH, expiry_BT, window, block)
    d_out_BKRTH = _split_heads(padded(d_out_BTNH, block), kv_heads)
    out_BKRTH = _split_heads(padded(out_BTNH, block), kv_heads)
    dot_BKRT = jnp.sum(d_out_BKRTH * out_BKRTH, axis=-1)
    of_row = functools.partial(_row_backward, block=block)
    dq_BKRTH, dk_BKTH, dv_BKTH = lax.map(lambda x: of_row(*x), (rows, d_out_BKRTH, dot_BKRT, logsum_BKRT))
    dq_BTNH = (_join_heads(dq_BKRTH)[:, :length] * head_dim**-0.5).astype(q_BTNH.dtype)
    dk_BTKH, dv_BTKH = (jnp.moveaxis(x, 1, 2)[:, :length].astype(k_BTKH.dtype) for x in (dk_BKTH, dv_BKTH))
    no_gradient = jax.tree.map(lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0), (expiry_BT, window))
    return dq_BTNH, dk_BTKH, dv_BTKH, *no_gradient


def _row_backward(
    row: _Row, d_out_KRTH: Array, dot_KRT: Array, logsum_KRT: Array, *, block: int
) -> tuple[Array, Array, Array]:
    """Gradients of the scaled queries [K, R, T, H], the keys and the values [K, T, H]."""
    pairs = row_pairs(row.expiry_T, block, row.positions_T, row.window_size)

    def step(p: Array, grads: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        dq, dk, dv = grads
        i, j = pairs.major[p], pairs.minor[p]
        q, d_out = _block(row.q_KRTH, i, 2, block), _block(d_out_KRTH, i, 2, block)
        logsum, dot = _block(logsum_KRT, i, 2, block), _block(dot_KRT, i, 2, block)
        mask_CC = _mask(row, i, j, block)
        # Masked scores may lie far above the sum of the visible ones; exp of them would be inf.
        scores = jnp.where(mask_CC[None, None], _scores(row, i, j, block) - logsum[..., None], LOWEST)
        weights = jnp.exp(scores)
        d_weights = jnp.einsum("krth,ksh->krts", d_out, _block(row.v_KTH, j, 1, block))
        d_scores = weights * (d_weights - dot[..., None])
        dq_i = _block(dq, i, 2, block) + jnp.einsum("krts,ksh->krth", d_scores, _block(row.k_KTH, j, 1, block))
        dk_j = _block(dk, j, 1, block) + jnp.einsum("krts,krth->ksh", d_scores, q)
        dv_j = _block(dv, j, 1, block) + jnp.einsum("krts,krth->ksh", weights, d_out)
        return _put(dq, dq_i, i, block), _put(dk, dk_j, j, block, 1), _put(dv, dv_j, j, block, 1)

    start = (jnp.zeros_like(row.q_KRTH), jnp.zeros_like(row.k_KTH), jnp.zeros_like(row.v_KTH))
    grads: tuple[Array, Array, Array] = lax.fori_loop(0, pairs.total, step, start)
    return grads


_attention.defvjp(_forward, _backward)


def _mask(row: _Row, i: Array, j: Array, block: int) -> Array:
    """Whether query c of block i sees key d of block j, bool [C, C]."""
    query_C1 = (i * block + jnp.arange(block))[:, None]
    key_1C = (j * block + jnp.arange(block))[None, :]
    expiry_1C = _block(row.expiry_T, j, 0, block)[None, :]
    visible_CC = (key_1C <= query_C1) & (query_C1 < expiry_1C)
    if row.positions_T is None or row.window_size is None:
        return visible_CC
    of_query_C1, of_key_1C = _block(row.positions_T, i, 0, block)[:, None], _block(row.positions_T, j, 0, block)[None]
    return visible_CC & (of_query_C1 - of_key_1C < row.window_size)


def _scores(row: _Row, i: Array, j: Array, block: int) -> Array:
    """[K, R, C, C]."""
    scores: Array = jnp.einsum("krth,ksh->krts", _block(row.q_KRTH, i, 2, block), _block(row.k_KTH, j, 1, block))
    return scores


def _rows(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, expiry_BT: Array, window: Window | None, block: int) -> _Row:
    kv_heads, head_dim = k_BTKH.shape[2:]
    q_BKRTH = _split_heads(padded(q_BTNH, block), kv_heads) * head_dim**-0.5
    k_BKTH, v_BKTH = (jnp.moveaxis(padded(x, block), 2, 1).astype(jnp.float32) for x in (k_BTKH, v_BTKH))
    positions_BT = window_size_B = None
    if window is not None:
        positions_BT = padded(window.positions_BT, block)
        window_size_B = jnp.broadcast_to(window.size, positions_BT.shape[:1])
    return _Row(q_BKRTH, k_BKTH, v_BKTH, padded(expiry_BT, block), positions_BT, window_size_B)


def _split_heads(x_BTNH: Array, kv_heads: int) -> Array:
    """[B, T, N, H] → float32 [B, K, R, T, H]."""
    batch, length, heads, head_dim = x_BTNH.shape
    x_BTKRH = x_BTNH.astype(jnp.float32).reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    return jnp.transpose(x_BTKRH, (0, 2, 3, 1, 4))


def _join_heads(x_BKRTH: Array) -> Array:
    """[B, K, R, T, H] → [B, T, N, H]."""
    batch, kv_heads, per_kv, length, head_dim = x_BKRTH.shape
    return jnp.transpose(x_BKRTH, (0, 3, 1, 2, 4)).reshape(batch, length, kv_heads * per_kv, head_dim)


def _block(x: Array, index: Array, axis: int, block: int) -> Array:
    return lax.dynamic_slice_in_dim(x, index * block, block, axis)


def _put(x: Array, values: Array, index: Array, block: int, axis: int = 2) -> Array:
    return lax.dynamic_update_slice_in_dim(x, values, index * block, axis)
