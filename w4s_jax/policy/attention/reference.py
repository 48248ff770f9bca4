"""The definition of attention with dense masks: over token trees, over padded prompts, and in decoding.

q, k, v (after RoPE) → **attention** → out        (what every other attention is tested against)

Legend: B batch, T queries, S keys, N query heads, K key/value heads, R = N / K query
heads a key head, H head_dim, G prompts, M samples of one prompt.

Query heads are grouped, so keys and values are never repeated. Scores are scaled by
H^-0.5; scores, softmax and accumulation are float32. A query that may see no key
(padding) yields zeros with zero gradients, never NaN. Scores and
masks of whole rows are held, which only short rows can afford: training and sampling take what `choose` picks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from w4s_jax.policy.attention.types import Window


def tree_attention_reference(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, expiry_BT: Array, window: Window | None = None
) -> Array:
    """Attention over packed token trees: key k is visible to query q ⇔ k ≤ q < expiry[k], and k is in q's window.

    Args:
        q_BTNH: Queries [B, T, N, H].
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; 0 for padding.
        window: None: a query sees its whole path.

    Returns:
        [B, T, N, H] in the dtype of the queries.
    """
    index_T = jnp.arange(q_BTNH.shape[1], dtype=expiry_BT.dtype)
    causal_11TS = (index_T[None, :] <= index_T[:, None])[None, None]
    alive_B1TS = (index_T[None, :, None] < expiry_BT[:, None, :])[:, None]
    visible_B1TS = causal_11TS & alive_B1TS
    if window is not None:
        back_BTS = window.positions_BT[:, :, None] - window.positions_BT[:, None, :]
        visible_B1TS &= (back_BTS < window.size)[:, None]
    scores_BKRTS = _scores(q_BTNH, k_BTKH)
    mask = jnp.broadcast_to(visible_B1TS[:, :, None], scores_BKRTS.shape)
    weights_BKRTS = masked_softmax(scores_BKRTS, mask)
    return _gather_values(weights_BKRTS, v_BTKH).astype(q_BTNH.dtype)


def causal_attention(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, lengths_B: Array, window_size: Array | None = None
) -> Array:
    """Causal attention over rows that are padded on the right.

    A row is the tree without branches: every key expires at the row's end.

    Args:
        q_BTNH: Queries [B, T, N, H].
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        lengths_B: int32 [B], real tokens of each row.
        window_size: int32 [], tokens that a query sees, itself included; None: all before it.

    Returns:
        [B, T, N, H]; zeros at padding.
    """
    expiry_BT = jnp.broadcast_to(lengths_B[:, None], k_BTKH.shape[:2])
    index_BT = jnp.broadcast_to(jnp.arange(k_BTKH.shape[1]), expiry_BT.shape)
    window = None if window_size is None else Window(index_BT, window_size)
    return tree_attention_reference(q_BTNH, k_BTKH, v_BTKH, expiry_BT, window)


def decode_attention(
    q_GMNH: Array,
    prompt_k_GTKH: Array,
    prompt_v_GTKH: Array,
    prompt_length_G: Array,
    suffix_k_GMSKH: Array,
    suffix_v_GMSKH: Array,
    suffix_length_GM: Array,
    window_size: Array | None = None,
) -> Array:
    """One decoding step of M samples that share each of G prompts.

    The prompt's keys and values are held and read once for all its samples.

    Args:
        q_GMNH: Queries of the newest tokens [G, M, N, H].
        prompt_k_GTKH: Keys of the prompts [G, T, K, H].
        prompt_v_GTKH: Values of the prompts [G, T, K, H].
        prompt_length_G: int32 [G], real tokens of each prompt.
        suffix_k_GMSKH: Keys of what each sample wrote [G, M, S, K, H], the newest included.
        suffix_v_GMSKH: Values of the same.
        suffix_length_GM: int32 [G, M], real tokens of each suffix, the newest included.
        window_size: int32 [], tokens that a query sees, itself included; None: all before it.

    Returns:
        [G, M, N, H] in the dtype of the queries.
    """
    prompt_GKRMT = _scores(q_GMNH, prompt_k_GTKH)
    groups, samples, heads, head_dim = q_GMNH.shape
    kv_heads = suffix_k_GMSKH.shape[3]
    q_GMKRH = q_GMNH.reshape(groups, samples, kv_heads, heads // kv_heads, head_dim)
    suffix_GKRMS = head_dim**-0.5 * jnp.einsum(
        "GMKRH,GMSKH->GKRMS", q_GMKRH, suffix_k_GMSKH, preferred_element_type=jnp.float32
    )
    prompt_11T = jnp.arange(prompt_k_GTKH.shape[1])[None, None, :]
    suffix_11S = jnp.arange(suffix_k_GMSKH.shape[2])[None, None, :]
    prompt_mask_GMT = prompt_11T < prompt_length_G[:, None, None]
    suffix_mask_GMS = suffix_11S < suffix_length_GM[:, :, None]
    if window_size is not None:
        length_GM1 = (prompt_length_G[:, None] + suffix_length_GM)[:, :, None]
        prompt_mask_GMT = prompt_mask_GMT & (length_GM1 - prompt_11T <= window_size)
        suffix_mask_GMS &= suffix_length_GM[:, :, None] - suffix_11S <= window_size
    mask = jnp.concatenate(
        [
            jnp.broadcast_to(prompt_mask_GMT[:, None, None], prompt_GKRMT.shape),
            jnp.broadcast_to(suffix_mask_GMS[:, None, None], suffix_GKRMS.shape),
        ],
        axis=-1,
    )
    weights = masked_softmax(jnp.concatenate([prompt_GKRMT, suffix_GKRMS], axis=-1), mask)
    of_prompt_GKRMT, of_suffix_GKRMS = jnp.split(weights, [prompt_k_GTKH.shape[1]], axis=-1)
    out_GMNH = _gather_values(of_prompt_GKRMT, prompt_v_GTKH) + jnp.einsum(
        "GKRMS,GMSKH->GMKRH",
        of_suffix_GKRMS.astype(suffix_v_GMSKH.dtype),
        suffix_v_GMSKH,
        preferred_element_type=jnp.float32,
    ).reshape(q_GMNH.shape)
    return out_GMNH.astype(q_GMNH.dtype)


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Softmax over the last axis where `mask`; a row without any True is all zero, gradients too.

    Args:
        scores: float32 [..., S].
        mask: Bool of the same shape.
    """
    # The smallest finite number, not -inf: (-inf) - (-inf) would put NaN into the gradient of an empty row.
    highest = jnp.max(jnp.where(mask, scores, np.finfo(np.float32).min), axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - jax.lax.stop_gradient(highest), 0.0)), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    normed: Array = weights / jnp.where(total > 0, total, 1.0)
    return normed


def _scores(q_BTNH: Array, k_BSKH: Array) -> Array:
    """Scaled float32 scores [B, K, R, T, S]; query head n belongs to key head n // R."""
    batch, length, heads, head_dim = q_BTNH.shape
    kv_heads = k_BSKH.shape[2]
    q_BTKRH = q_BTNH.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("BTKRH,BSKH->BKRTS", q_BTKRH, k_BSKH, preferred_element_type=jnp.float32)
    return jnp.multiply(scores, head_dim**-0.5)


def _gather_values(weights_BKRTS: Array, v_BSKH: Array) -> Array:
    """Weighted sum of the values, [B, T, N, H] float32."""
    batch, kv_heads, per_kv, length, _ = weights_BKRTS.shape
    out_BTKRH: Array = jnp.einsum(
        "BKRTS,BSKH->BTKRH", weights_BKRTS.astype(v_BSKH.dtype), v_BSKH, preferred_element_type=jnp.float32
    )
    return out_BTKRH.reshape(batch, length, kv_heads * per_kv, v_BSKH.shape[-1])
