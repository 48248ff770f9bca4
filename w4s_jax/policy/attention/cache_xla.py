"""Attention of the newest tokens over the decode cache, block by block.

q, k, v of the newest token → **cached_attention** ← KVCache (shared prompts, own suffixes)

The softmax is accumulated over blocks of cached tokens (Milakov & Gimelshein, arXiv
1805.02867; Dao et al., arXiv 2205.14135), and only as many blocks are read as the
longest row needs, so a step costs what is in the cache and not what would fit. A
block past the end of a row multiplies its sums by exp(0) and adds zeros: however
many blocks the neighbours need, the row's bits stay the same. With a sliding window, the blocks that lie behind the
windows of all rows are not read either.

`reference.decode_attention` is the dense reference.

Legend: G slots (one prompt each), M samples of a prompt, T prompt capacity, S suffix
capacity, L layers, N query heads, K key/value heads, R = N / K, H head_dim, C block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from w4s_jax.policy.attention.types import KVCache

_HIDDEN = -1e30
"""Score of a masked key: finite, and far below any real one, so that its weight is exactly zero."""
_FAR = 2**30
"""An index that no cache has."""


class _Sums(NamedTuple):
    """A softmax under way, float32."""

    highest_GKRM: Array
    total_GKRM: Array
    out_GKRMH: Array


def cached_attention(
    q_GMNH: Array,
    k_GMKH: Array,
    v_GMKH: Array,
    cache: KVCache,
    layer: Array,
    prompt_length_G: Array,
    suffix_length_G: Array,
    window_size: Array | None = None,
    *,
    block: int,
) -> Array:
    """Attends from the newest token of each sample to itself, its suffix and its prompt.

    The caches are indexed by layer here, and not handed in by layer, so that the
    blocks that nobody needs are not even copied.

    Args:
        q_GMNH: Queries of the newest tokens.
        k_GMKH: Their keys, in the cache's dtype.
        v_GMKH: Their values.
        cache: Everything older.
        layer: int32 [].
        prompt_length_G: int32, tokens in each prompt cache.
        suffix_length_G: int32, tokens in the suffix caches of each slot.
        window_size: int32 [], tokens that a query sees, itself included; None: all before it.
        block: C, cached tokens read at a time; divides T and S.

    Returns:
        [G, M, N, H] in the dtype of the queries.
    """
    slots, samples, heads, head_dim = q_GMNH.shape
    kv_heads = k_GMKH.shape[2]
    q_GMKRH = q_GMNH.reshape(slots, samples, kv_heads, heads // kv_heads, head_dim)

    def read(x_LG: Array, token_axis: int, index: Array) -> Array:
        start, size = [jnp.int32(0)] * x_LG.ndim, list(x_LG.shape)
        start[0], start[token_axis] = layer, index * block
        size[0], size[token_axis] = 1, block
        return jax.lax.dynamic_slice(x_LG, start, size)[0]

    def over_prompt(index: Array, sums: _Sums) -> _Sums:
        k_GKCH, v_GKCH = read(cache.prompt_k_LGKTH, 3, index), read(cache.prompt_v_LGKTH, 3, index)
        scores_GKRMC = _einsum("GMKRH,GKCH->GKRMC", q_GMKRH, k_GKCH)
        seen = _Span(prompt_from_G, prompt_length_G).after(index * block)
        return _accumulate(sums, scores_GKRMC, seen, "GKRMC,GKCH->GKRMH", v_GKCH)

    def over_suffix(index: Array, sums: _Sums) -> _Sums:
        k_GKMCH, v_GKMCH = read(cache.suffix_k_LGKMSH, 4, index), read(cache.suffix_v_LGKMSH, 4, index)
        scores_GKRMC = _einsum("GMKRH,GKMCH->GKRMC", q_GMKRH, k_GKMCH)
        seen = _Span(suffix_from_G, suffix_length_G).after(index * block)
        return _accumulate(sums, scores_GKRMC, seen, "GKRMC,GKMCH->GKRMH", v_GKMCH)

    itself_GKRM = _einsum("GMKRH,GMKH->GKRM", q_GMKRH, k_GMKH) * head_dim**-0.5
    out_GKRMH = jnp.moveaxis(v_GMKH, 1, 2)[:, :, None].astype(jnp.float32)
    out_GKRMH = jnp.broadcast_to(out_GKRMH, (*itself_GKRM.shape, head_dim))
    sums = _Sums(itself_GKRM, jnp.ones_like(itself_GKRM), out_GKRMH)
    prompt_from_G = suffix_from_G = None
    if window_size is not None:
        suffix_from_G = suffix_length_G + 1 - window_size
        prompt_from_G = prompt_length_G + suffix_from_G
    sums = _walk(over_prompt, _Span(prompt_from_G, prompt_length_G), block, sums)
    sums = _walk(over_suffix, _Span(suffix_from_G, suffix_length_G), block, sums)
    out_GMKRH = jnp.moveaxis(sums.out_GKRMH / sums.total_GKRM[..., None], 3, 1)
    return out_GMKRH.reshape(q_GMNH.shape).astype(q_GMNH.dtype)


class _Span(NamedTuple):
    """Which tokens of a cache each slot sees."""

    begin_G: Array | None
    """First one; None or below 0: the cache's first."""
    end_G: Array
    """The one after the last; nothing is seen where it is not above the first."""

    def after(self, tokens: Array) -> _Span:
        """The same, counted from a later token."""
        return _Span(None if self.begin_G is None else self.begin_G - tokens, self.end_G - tokens)


def _walk(step: Callable[[Array, _Sums], _Sums], seen: _Span, block: int, sums: _Sums) -> _Sums:
    """Over the blocks that any slot sees."""
    first: Any = 0
    if seen.begin_G is not None:
        # A slot that sees nothing must not hold back the others.
        begin_G = jnp.where(seen.end_G > 0, jnp.maximum(seen.begin_G, 0), _FAR)
        first = jnp.min(begin_G) // block
    walked: _Sums = jax.lax.fori_loop(first, (jnp.max(seen.end_G) + block - 1) // block, step, sums)
    return walked


def _accumulate(sums: _Sums, scores_GKRMC: Array, seen: _Span, spec: str, v: Array) -> _Sums:
    """Adds a block of keys."""
    index_1C = jnp.arange(scores_GKRMC.shape[-1])[None, :]
    visible_GC = index_1C < seen.end_G[:, None]
    if seen.begin_G is not None:
        visible_GC &= index_1C >= seen.begin_G[:, None]
    scores_GKRMC = jnp.where(visible_GC[:, None, None, None], scores_GKRMC * v.shape[-1] ** -0.5, _HIDDEN)
    highest_GKRM = jnp.maximum(sums.highest_GKRM, jnp.max(scores_GKRMC, axis=-1))
    weights_GKRMC = jnp.exp(scores_GKRMC - highest_GKRM[..., None])
    rescale_GKRM = jnp.exp(sums.highest_GKRM - highest_GKRM)
    return _Sums(
        highest_GKRM,
        sums.total_GKRM * rescale_GKRM + jnp.sum(weights_GKRMC, axis=-1),
        sums.out_GKRMH * rescale_GKRM[..., None] + _einsum(spec, weights_GKRMC.astype(v.dtype), v),
    )


def _einsum(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
