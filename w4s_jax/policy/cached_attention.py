"""Attention of the newest tokens over the decode cache, block by block.

q, k, v of the newest token → **cached_attention** ← KVCache (shared prompts, own suffixes)

The softmax is accumulated over blocks of cached tokens (Milakov & Gimelshein, arXiv
1805.02867; Dao et al., arXiv 2205.14135), and only as many blocks are read as the
longest row needs, so a step costs what is in the cache and not what would fit. A
block past the end of a row multiplies its sums by exp(0) and adds zeros: however
many blocks the neighbours need, the row's bits stay the same.

`attention.decode_attention` is the dense reference.

Legend: G slots (one prompt each), M samples of a prompt, T prompt capacity, S suffix
capacity, L layers, N query heads, K key/value heads, R = N / K, H head_dim, C block.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_HIDDEN = -1e30
"""Score of a masked key: finite, and far below any real one, so that its weight is exactly zero."""


class KVCache(NamedTuple):
    """Keys and values of all layers; T and S are multiples of the block.

    A head's tokens lie together, as its products read them: in another order the compiler would turn the whole cache
    round before a chunk of steps and back after it.
    """

    prompt_k_LGKTH: Array
    prompt_v_LGKTH: Array
    suffix_k_LGKMSH: Array
    """Keys of the prompt's last token and of the sampled tokens but the newest."""
    suffix_v_LGKMSH: Array


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
        return _accumulate(sums, scores_GKRMC, prompt_length_G - index * block, "GKRMC,GKCH->GKRMH", v_GKCH)

    def over_suffix(index: Array, sums: _Sums) -> _Sums:
        k_GKMCH, v_GKMCH = read(cache.suffix_k_LGKMSH, 4, index), read(cache.suffix_v_LGKMSH, 4, index)
        scores_GKRMC = _einsum("GMKRH,GKMCH->GKRMC", q_GMKRH, k_GKMCH)
        return _accumulate(sums, scores_GKRMC, suffix_length_G - index * block, "GKRMC,GKMCH->GKRMH", v_GKMCH)

    itself_GKRM = _einsum("GMKRH,GMKH->GKRM", q_GMKRH, k_GMKH) * head_dim**-0.5
    out_GKRMH = jnp.moveaxis(v_GMKH, 1, 2)[:, :, None].astype(jnp.float32)
    out_GKRMH = jnp.broadcast_to(out_GKRMH, (*itself_GKRM.shape, head_dim))
    sums = _Sums(itself_GKRM, jnp.ones_like(itself_GKRM), out_GKRMH)
    sums = jax.lax.fori_loop(0, _blocks(prompt_length_G, block), over_prompt, sums)
    sums = jax.lax.fori_loop(0, _blocks(suffix_length_G, block), over_suffix, sums)
    out_GMKRH = jnp.moveaxis(sums.out_GKRMH / sums.total_GKRM[..., None], 3, 1)
    return out_GMKRH.reshape(q_GMNH.shape).astype(q_GMNH.dtype)


def _accumulate(sums: _Sums, scores_GKRMC: Array, visible_G: Array, spec: str, v: Array) -> _Sums:
    """Adds a block of keys, of which the first `visible` of a slot are seen (none where it is not positive)."""
    visible_GC = jnp.arange(scores_GKRMC.shape[-1])[None, :] < visible_G[:, None]
    scores_GKRMC = jnp.where(visible_GC[:, None, None, None], scores_GKRMC * v.shape[-1] ** -0.5, _HIDDEN)
    highest_GKRM = jnp.maximum(sums.highest_GKRM, jnp.max(scores_GKRMC, axis=-1))
    weights_GKRMC = jnp.exp(scores_GKRMC - highest_GKRM[..., None])
    rescale_GKRM = jnp.exp(sums.highest_GKRM - highest_GKRM)
    return _Sums(
        highest_GKRM,
        sums.total_GKRM * rescale_GKRM + jnp.sum(weights_GKRMC, axis=-1),
        sums.out_GKRMH * rescale_GKRM[..., None] + _einsum(spec, weights_GKRMC.astype(v.dtype), v),
    )


def _blocks(length_G: Array, block: int) -> Array:
    """Blocks that the longest slot needs."""
    return (jnp.max(length_G) + block - 1) // block


def _einsum(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
