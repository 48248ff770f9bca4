"""Attention over packed token trees as Pallas kernels for GPUs (Triton), forward and backward.

q, k, v (after RoPE), expiry → **tree_attention** → out        (called by the Transformer as `attend`)

One program a block and head walks the list of the blocks it has something to do with:
first those that are visible as a whole, then those whose mask is computed, inside the
kernel, from `expiry`. Three kernels: the output with its log-sum-exp, the gradient of the
queries (a program a block of queries), the gradients of keys and values (a program a block
of keys, over all query heads that share them). The online softmax is that of Milakov &
Gimelshein (arXiv 1805.02867), the backward pass that of Dao et al. (arXiv 2205.14135).

A matrix product of a block takes the tensor cores no longer than its softmax takes the
other units, so the softmax is kept short: powers of two, one multiply-add for scale and
maximum, and no mask where nothing is masked.

Legend: B rows, T tokens of a row, N query heads, K key/value heads, R = N / K, H
head_dim, C queries of a block, S keys of a block, I blocks of queries, J blocks of keys.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike

from w4s_jax.policy.attention.blocks import (
    FLOOR,
    LOWEST,
    Lists,
    kept,
    lists,
    padded,
    power_scale,
    visible_blocks,
    whole_blocks,
)

Ref = Any
"""A Pallas reference."""
Weigh = Callable[[Array, Array], Array]
"""(unscaled scores, shift) → softmax weights; see `_weights`."""


class Tile(NamedTuple):
    """What a program of one kernel holds at a time, and by how many warps."""

    queries: int
    """Tokens; a power of two of at least 16."""
    keys: int
    """Tokens; a power of two of at least 16."""
    warps: int = 8
    stages: int = 2
    """Blocks that are in flight or worked on."""


class Tiles(NamedTuple):
    """Of the three kernels. `python -m benchmarks.gpu_kernels` shows what they compile to."""

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile

    @property
    def multiple(self) -> int:
        """Tokens that a row is padded to a multiple of."""
        return max(max(tile.queries, tile.keys) for tile in self)


TENSOR_CORE_TILES = Tiles(Tile(128, 128), Tile(128, 64), Tile(64, 128))
"""For 16-bit inputs; before Hopper they take 96 KiB of shared memory, of which every GPU since Ampere grants 99."""
EXACT_TILES = Tiles(Tile(32, 16, 4), Tile(32, 16, 4), Tile(16, 32, 4))
"""For float32, whose exact products run outside of the tensor cores."""
HEAD_DIMS = (16, 32, 64, 128)
"""What the tiles hold; those of the supported models are 64 and 128."""


def tiles_for(dtype: DTypeLike) -> Tiles:
    """What the kernels take where nothing else is asked for."""
    return EXACT_TILES if jnp.dtype(dtype) == jnp.float32 else TENSOR_CORE_TILES


def tree_attention(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    expiry_BT: Array,
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Array:
    """Attention over packed token trees: key k is visible to query q ⇔ k ≤ q < expiry[k].

    Args:
        q_BTNH: Queries [B, T, N, H], H a power of two from 16 to 128.
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; 0 for padding.
        tiles: They decide rounding and speed, not what is seen; None: those for the dtype.
        interpret: Runs anywhere, slowly, for tests.

    Returns:
        [B, T, N, H] in the dtype of the queries; zeros, with zero gradients, where a query sees nothing.
    """
    tiles = tiles or tiles_for(q_BTNH.dtype)
    length, to = q_BTNH.shape[1], tiles.multiple
    q_BNTH, k_BKTH, v_BKTH = (jnp.swapaxes(padded(x, to), 1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    out_BNTH: Array = _attention(q_BNTH, k_BKTH, v_BKTH, padded(expiry_BT, to), tiles, interpret)
    return jnp.swapaxes(out_BNTH, 1, 2)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, tiles: Tiles, interpret: bool) -> Array:
    return _forward(q_BNTH, k_BKTH, v_BKTH, expiry_BT, tiles, interpret)[0]


def _forward(
    q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, tiles: Tiles, interpret: bool
) -> tuple[Array, Any]:
    batch, heads, length, _ = q_BNTH.shape
    tile = tiles.forward
    of = _ByQuery(q_BNTH.shape, heads // k_BKTH.shape[1], tile.queries)
    out_BNTH, logsum_BNT = _call(
        _forward_kernel,
        tile,
        grid=of.grid,
        inputs=[
            *((of.q, q_BNTH), (of.k, k_BKTH), (of.k, v_BKTH), (of.expiry, expiry_BT)),
            *of.walked(lists(*_blocks(expiry_BT, tile))),
        ],
        outputs=[(of.q, q_BNTH), (of.statistic, jax.ShapeDtypeStruct((batch, heads, length), jnp.float32))],
        interpret=interpret,
    )
    out_BNTH, logsum_BNT = kept(out_BNTH, logsum_BNT)
    return out_BNTH, (q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BNT)


def _backward(tiles: Tiles, interpret: bool, saved: Any, d_out_BNTH: Array) -> tuple[Array, Array, Array, np.ndarray]:
    q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BNT = saved
    kv_heads = k_BKTH.shape[1]
    dot_BNT = jnp.sum(d_out_BNTH.astype(jnp.float32) * out_BNTH.astype(jnp.float32), axis=-1)

    of = _ByQuery(q_BNTH.shape, q_BNTH.shape[1] // kv_heads, tiles.query_gradient.queries)
    (dq_BNTH,) = _call(
        _query_gradient_kernel,
        tiles.query_gradient,
        grid=of.grid,
        inputs=[
            *((of.q, q_BNTH), (of.k, k_BKTH), (of.k, v_BKTH), (of.expiry, expiry_BT), (of.q, d_out_BNTH)),
            *((of.statistic, logsum_BNT), (of.statistic, dot_BNT)),
            *of.walked(lists(*_blocks(expiry_BT, tiles.query_gradient))),
        ],
        outputs=[(of.q, q_BNTH)],
        interpret=interpret,
    )

    by = _ByKey(k_BKTH.shape, tiles.key_gradient.keys)
    grouped = functools.partial(_by_kv_head, kv_heads=kv_heads)
    q_BKRTH, d_out_BKRTH, logsum_BKRT, dot_BKRT = map(grouped, (q_BNTH, d_out_BNTH, logsum_BNT, dot_BNT))
    dk_BKTH, dv_BKTH = _call(
        _key_gradient_kernel,
        tiles.key_gradient,
        grid=by.grid,
        inputs=[
            *((by.group(q_BKRTH), q_BKRTH), (by.k, k_BKTH), (by.k, v_BKTH), (by.expiry, expiry_BT)),
            *((by.group(x), x) for x in (d_out_BKRTH, logsum_BKRT, dot_BKRT)),
            *by.walked(lists(*(jnp.swapaxes(x, 1, 2) for x in _blocks(expiry_BT, tiles.key_gradient)))),
        ],
        outputs=[(by.k, k_BKTH), (by.k, v_BKTH)],
        interpret=interpret,
    )
    return dq_BNTH, dk_BKTH, dv_BKTH, np.zeros(expiry_BT.shape, jax.dtypes.float0)


_attention.defvjp(_forward, _backward)


# --- which program takes which part ---------------------------------------------


class _ByQuery:
    """Programs (block of queries, query head, row); keys and values of the whole row are at hand.

    The last blocks see most and come first, so that no long one is left over at the end.
    """

    def __init__(self, shape_BNTH: tuple[int, ...], per_kv: int, block: int) -> None:
        batch, heads, length, head_dim = shape_BNTH
        blocks = length // block
        self.grid = (blocks, heads, batch)
        self.q = pl.BlockSpec((None, None, block, head_dim), lambda p, n, b: (b, n, blocks - 1 - p, 0))
        self.k = pl.BlockSpec((None, None, length, head_dim), lambda p, n, b: (b, n // per_kv, 0, 0))
        self.expiry = pl.BlockSpec((None, length), lambda p, n, b: (b, 0))
        self.statistic = pl.BlockSpec((None, None, block), lambda p, n, b: (b, n, blocks - 1 - p))

    def walked(self, found: Lists) -> list[tuple[pl.BlockSpec, Array]]:
        """The list that each program walks."""
        return _walked(found, lambda p: found.order.shape[1] - 1 - p)


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

    def walked(self, found: Lists) -> list[tuple[pl.BlockSpec, Array]]:
        """The list that each program walks."""
        return _walked(found, lambda j: j)


def _blocks(expiry_BT: Array, tile: Tile) -> tuple[Array, Array]:
    """Which pairs of blocks are visible, and which of these as a whole, bool [B, I, J]."""
    visible_BIJ = visible_blocks(expiry_BT, tile.queries, tile.keys)
    return visible_BIJ, whole_blocks(expiry_BT, tile.queries, tile.keys)


def _walked(found: Lists, block_of: Callable[[Any], Any]) -> list[tuple[pl.BlockSpec, Array]]:
    """What each program walks: the list of its block, how many of it are whole, and how far it goes."""
    counts = jnp.stack([found.first, found.total], axis=-1)
    return [
        (pl.BlockSpec((None, None, found.order.shape[2]), lambda p, _, b: (b, block_of(p), 0)), found.order),
        (pl.BlockSpec((None, None, 2), lambda p, _, b: (b, block_of(p), 0)), counts),
    ]


def _call(
    kernel: Callable[..., None],
    tile: Tile,
    *,
    grid: tuple[int, ...],
    inputs: Sequence[tuple[pl.BlockSpec, Array]],
    outputs: Sequence[tuple[pl.BlockSpec, Any]],
    interpret: bool,
) -> tuple[Array, ...]:
    """Runs a kernel; outputs have the shape and dtype of what they are given with."""
    weigh = functools.partial(_weights, head_dim=outputs[0][1].shape[-1], interpret=interpret)
    results: tuple[Array, ...] = pl.pallas_call(
        functools.partial(kernel, tile=tile, weigh=weigh),
        grid=grid,
        in_specs=[spec for spec, _ in inputs],
        out_specs=[spec for spec, _ in outputs],
        out_shape=[jax.ShapeDtypeStruct(like.shape, like.dtype) for _, like in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*(array for _, array in inputs))
    return results


def _by_kv_head(x_BNT: Array, kv_heads: int) -> Array:
    """[B, N, T, …] → [B, K, R, T, …]."""
    batch, heads, *rest = x_BNT.shape
    return x_BNT.reshape(batch, kv_heads, heads // kv_heads, *rest)


# --- the kernels ----------------------------------------------------------------


def _forward_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, list_ref: Ref, counts_ref: Ref,
    out_ref: Ref, logsum_ref: Ref, *, tile: Tile, weigh: Weigh,
) -> None:  # fmt: skip
    """Output, and log-sum-exp to the base of two, of one block of queries."""
    block, head_dim = q_ref.shape
    q, first_query = q_ref[...], (pl.num_programs(0) - 1 - pl.program_id(0)) * block
    scale = power_scale(head_dim)

    def step(p: Array, sums: tuple[Array, Array, Array], *, masked: bool) -> tuple[Array, Array, Array]:
        out_CH, highest_C, total_C = sums
        first_key = list_ref[p] * tile.keys
        at = pl.ds(first_key, tile.keys)
        scores_CS = product(q, k_ref[at, :].T)
        if masked:
            scores_CS = jnp.where(_mask(first_query, block, first_key, expiry_ref[at]), scores_CS, LOWEST)
        new_C = jnp.maximum(highest_C, jnp.max(scores_CS, axis=1) * scale)
        weights_CS = weigh(scores_CS, new_C[:, None])
        shrink_C = jnp.exp2(highest_C - new_C)
        v_SH = v_ref[at, :]
        values_CH = product(weights_CS.astype(v_SH.dtype), v_SH)
        return out_CH * shrink_C[:, None] + values_CH, new_C, total_C * shrink_C + jnp.sum(weights_CS, axis=1)

    zeros_C = jnp.zeros(block, jnp.float32)
    start = (jnp.zeros((block, head_dim), jnp.float32), zeros_C + FLOOR, zeros_C)
    out_CH, highest_C, total_C = _walk(step, counts_ref[0], counts_ref[1], start)
    total_C = jnp.where(total_C > 0, total_C, 1.0)
    out_ref[...] = (out_CH / total_C[:, None]).astype(out_ref.dtype)
    logsum_ref[...] = highest_C + jnp.log2(total_C)


def _query_gradient_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref,
    list_ref: Ref, counts_ref: Ref, dq_ref: Ref, *, tile: Tile, weigh: Weigh,
) -> None:  # fmt: skip
    """Gradient of one block of queries."""
    block, head_dim = q_ref.shape
    q, d_out, logsum_C1, dot_C1 = q_ref[...], d_out_ref[...], logsum_ref[...][:, None], dot_ref[...][:, None]
    first_query = (pl.num_programs(0) - 1 - pl.program_id(0)) * block

    def step(p: Array, dq_CH: Array, *, masked: bool) -> Array:
        first_key = list_ref[p] * tile.keys
        at = pl.ds(first_key, tile.keys)
        k_SH = k_ref[at, :]
        scores_CS = product(q, k_SH.T)
        if masked:
            scores_CS = jnp.where(_mask(first_query, block, first_key, expiry_ref[at]), scores_CS, LOWEST)
        weights_CS = weigh(scores_CS, logsum_C1)
        d_scores_CS = weights_CS * (product(d_out, v_ref[at, :].T) - dot_C1)
        return dq_CH + product(d_scores_CS.astype(k_SH.dtype), k_SH)

    dq_CH = _walk(step, counts_ref[0], counts_ref[1], jnp.zeros((block, head_dim), jnp.float32))
    dq_ref[...] = (dq_CH * head_dim**-0.5).astype(dq_ref.dtype)


def _key_gradient_kernel(
    q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref, d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref,
    list_ref: Ref, counts_ref: Ref, dk_ref: Ref, dv_ref: Ref, *, tile: Tile, weigh: Weigh,
) -> None:  # fmt: skip
    """Gradients of one block of keys and values, over the query heads that share them.

    Scores are held transposed, [S, C]: as they come out of one product they go into the next.
    """
    block, head_dim = k_ref.shape
    k, v, expiry_S, first_key = k_ref[...], v_ref[...], expiry_ref[...], pl.program_id(0) * block
    whole, total = counts_ref[0], counts_ref[1]

    def step(s: Array, sums: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
        dk_SH, dv_SH = sums
        # Over the whole blocks of every head, then over the others of every head.
        count = total - whole if masked else whole
        r, p = lax.div(s, count), lax.rem(s, count) + (whole if masked else 0)
        first_query = list_ref[p] * tile.queries
        at = pl.ds(first_query, tile.queries)
        q_CH, d_out_CH = q_ref[r, at, :], d_out_ref[r, at, :]
        scores_SC = product(k, q_CH.T)
        if masked:
            scores_SC = jnp.where(_mask(first_query, tile.queries, first_key, expiry_S).T, scores_SC, LOWEST)
        weights_SC = weigh(scores_SC, logsum_ref[r, at][None, :])
        d_scores_SC = weights_SC * (product(v, d_out_CH.T) - dot_ref[r, at][None, :])
        dv_SH += product(weights_SC.astype(d_out_CH.dtype), d_out_CH)
        dk_SH += product(d_scores_SC.astype(q_CH.dtype), q_CH)
        return dk_SH, dv_SH

    zeros = jnp.zeros((block, head_dim), jnp.float32)
    heads = q_ref.shape[0]
    sums = lax.fori_loop(0, whole * heads, functools.partial(step, masked=False), (zeros, zeros))
    dk_SH, dv_SH = lax.fori_loop(0, (total - whole) * heads, functools.partial(step, masked=True), sums)
    dk_ref[...] = (dk_SH * head_dim**-0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv_SH.astype(dv_ref.dtype)


def _walk(step: Callable[..., Any], whole: Array, total: Array, start: Any) -> Any:
    """Steps through the blocks that are whole, without a mask, then through the others."""
    sums = lax.fori_loop(0, whole, functools.partial(step, masked=False), start)
    return lax.fori_loop(whole, total, functools.partial(step, masked=True), sums)


def _mask(first_query: Array, queries: int, first_key: Array, expiry_S: Array) -> Array:
    """Whether each query sees each key, bool [C, S]."""
    query_C1 = (first_query + jnp.arange(queries))[:, None]
    key_1S = (first_key + jnp.arange(expiry_S.shape[0]))[None, :]
    return (key_1S <= query_C1) & (query_C1 < expiry_S[None, :])


def _weights(scores: Array, shift: Array, head_dim: int, *, interpret: bool) -> Array:
    """Softmax weights of unscaled scores: 2 ** (scores · scale − shift), float32.

    Two instructions of a GPU, which would not be fused by themselves; what would be below 1e-38 is 0 (PTX ISA,
    ex2.approx.ftz). `shift` broadcasts against the scores.
    """
    if interpret:
        return jnp.exp2(scores * power_scale(head_dim) - shift)
    scale = struct.pack(">f", power_scale(head_dim)).hex()
    (weights,) = plgpu.elementwise_inline_asm(
        f"{{ .reg .f32 x; fma.rn.f32 x, $1, 0f{scale}, $2; ex2.approx.ftz.f32 $0, x; }}",
        args=[scores, jnp.broadcast_to(-shift, scores.shape)],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(scores.shape, jnp.float32)],
    )
    return jnp.asarray(weights)


def product(a: Array, b: Array) -> Array:
    """Matrix product in float32; exact products of float32 inputs."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)
