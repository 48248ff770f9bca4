"""Attention over packed token trees as Pallas kernels for TPUs, forward and backward.

q, k, v (after RoPE), expiry → **tree_attention** → out        (called by the Transformer as `attend`)

The grid walks a prefetched list of the visible pairs of blocks and nothing else; the
mask is computed from `expiry` inside the kernel, where a pair is not visible as a whole.
Three kernels: the output with its log-sum-exp to the base of two, the gradient of the
queries (both by blocks of queries), the gradients of keys and values (by blocks of keys,
summed over the query heads that share them).

Scores are held transposed, [keys, queries], so that all that is kept for each query
(maximum, sum, log-sum-exp) lies along the lanes, and only [H, C] blocks are ever
transposed. The online softmax is that of Milakov & Gimelshein (arXiv 1805.02867), the
backward pass that of Dao et al. (arXiv 2205.14135).

Legend: B rows, T tokens of a row, I blocks of a row, N query heads, K key/value heads,
R = N / K, H head_dim, C tokens of a block, S keys of a block (S = C), P pairs of blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from w4s_jax.policy.attention.blocks import FLOOR, LOWEST, Pairs, flat_pairs, kept, padded, power_scale

BLOCK = 512
_LANES = 128
_VMEM_BYTES = 64 << 20
_SEMANTICS: tuple[Literal["parallel", "arbitrary"], ...] = ("parallel", "arbitrary", "arbitrary")
"""Heads may go to two cores of a chip; the pairs of a block have to follow one another."""
Ref = Any
"""A Pallas reference."""


def tree_attention(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, expiry_BT: Array, *, block: int = BLOCK, interpret: bool = False
) -> Array:
    """Attention over packed token trees: key k is visible to query q ⇔ k ≤ q < expiry[k].

    Args:
        q_BTNH: Queries [B, T, N, H].
        k_BTKH: Keys [B, T, K, H].
        v_BTKH: Values [B, T, K, H].
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; 0 for padding.
        block: Tokens of a block, a multiple of 128; a shorter row takes shorter ones.
        interpret: Runs anywhere, slowly, for tests.

    Returns:
        [B, T, N, H] in the dtype of the queries; zeros, with zero gradients, where a query sees nothing.
    """
    length = q_BTNH.shape[1]
    block = min(block, -(-length // _LANES) * _LANES)
    q_BNTH, k_BKTH, v_BKTH = (jnp.swapaxes(padded(x, block), 1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    out_BNTH: Array = _attention(q_BNTH, k_BKTH, v_BKTH, padded(expiry_BT, block), block, interpret)
    return jnp.swapaxes(out_BNTH, 1, 2)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, block: int, interpret: bool) -> Array:
    return _forward(q_BNTH, k_BKTH, v_BKTH, expiry_BT, block, interpret)[0]


def _forward(
    q_BNTH: Array, k_BKTH: Array, v_BKTH: Array, expiry_BT: Array, block: int, interpret: bool
) -> tuple[Array, Any]:
    batch, heads, length, head_dim = q_BNTH.shape
    walk = _by_query(q_BNTH, k_BKTH, expiry_BT, block, interpret)
    out_BNTH, logsum_BN1T = walk.call(
        _forward_kernel,
        inputs=[(walk.q, q_BNTH), (walk.k, k_BKTH), (walk.k, v_BKTH), (walk.expiry, _along_sublanes(expiry_BT))],
        outputs=[(walk.q, q_BNTH), (walk.of_query, jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32))],
        scratch=[(head_dim, block), (1, block), (1, block)],
    )
    out_BNTH, logsum_BN1T = kept(out_BNTH, logsum_BN1T)
    return out_BNTH, (q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BN1T)


def _backward(block: int, interpret: bool, saved: Any, d_out_BNTH: Array) -> tuple[Array, Array, Array, np.ndarray]:
    q_BNTH, k_BKTH, v_BKTH, expiry_BT, out_BNTH, logsum_BN1T = saved
    head_dim = q_BNTH.shape[-1]
    dot_BN1T = jnp.sum(d_out_BNTH.astype(jnp.float32) * out_BNTH.astype(jnp.float32), axis=-1)[:, :, None]

    def inputs(walk: _Walk) -> list[tuple[pl.BlockSpec, Array]]:
        return [
            *((walk.q, q_BNTH), (walk.k, k_BKTH), (walk.k, v_BKTH), (walk.expiry, _along_sublanes(expiry_BT))),
            *((walk.q, d_out_BNTH), (walk.of_query, logsum_BN1T), (walk.of_query, dot_BN1T)),
        ]

    walk = _by_query(q_BNTH, k_BKTH, expiry_BT, block, interpret)
    (dq_BNTH,) = walk.call(
        _query_gradient_kernel, inputs=inputs(walk), outputs=[(walk.q, q_BNTH)], scratch=[(head_dim, block)]
    )
    walk = _by_key(q_BNTH, k_BKTH, expiry_BT, block, interpret)
    dk_BKTH, dv_BKTH = walk.call(
        _key_gradient_kernel,
        inputs=inputs(walk),
        outputs=[(walk.k, k_BKTH), (walk.k, v_BKTH)],
        scratch=[(block, head_dim), (block, head_dim)],
    )
    return dq_BNTH, dk_BKTH, dv_BKTH, np.zeros(expiry_BT.shape, jax.dtypes.float0)


_attention.defvjp(_forward, _backward)


# --- the walks over the pairs ---------------------------------------------------


class _Walk(NamedTuple):
    """A grid over pairs of blocks, and which block of each kind of array a point of it takes."""

    grid: tuple[Any, ...]
    pairs: Pairs
    """From `_packed`."""
    q: pl.BlockSpec
    """Of [B, N, T, H]."""
    k: pl.BlockSpec
    """Of [B, K, T, H]."""
    expiry: pl.BlockSpec
    """Of [B, T, lanes]."""
    of_query: pl.BlockSpec
    """Of [B, N, 1, T]."""
    blocks: int
    """Of a row."""
    interpret: bool

    def call(
        self,
        kernel: Callable[..., None],
        *,
        inputs: list[tuple[pl.BlockSpec, Array]],
        outputs: list[tuple[pl.BlockSpec, Any]],
        scratch: list[tuple[int, ...]],
    ) -> tuple[Array, ...]:
        """Runs a kernel over the walk: what is prefetched, the inputs, the outputs, then scratch."""
        spec = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=self.grid,
            in_specs=[spec for spec, _ in inputs],
            out_specs=[spec for spec, _ in outputs],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        )
        results: tuple[Array, ...] = pl.pallas_call(
            functools.partial(kernel, blocks=self.blocks),
            grid_spec=spec,
            out_shape=[jax.ShapeDtypeStruct(like.shape, like.dtype) for _, like in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=_SEMANTICS[: len(self.grid)],
                vmem_limit_bytes=_VMEM_BYTES,
            ),
            interpret=self.interpret,
            name=kernel.__name__.strip("_"),
        )(self.pairs.total[None], self.pairs.major, self.pairs.minor, *(array for _, array in inputs))
        return results


def _by_query(q_BNTH: Array, k_BKTH: Array, expiry_BT: Array, block: int, interpret: bool) -> _Walk:
    """Heads of queries × pairs; what belongs to one block of queries is visited in a row."""
    heads, per_kv, blocks = q_BNTH.shape[1], q_BNTH.shape[1] // k_BKTH.shape[1], q_BNTH.shape[2] // block
    pairs = _packed(*flat_pairs(expiry_BT, block))

    def at(n: Any, p: Any, _: Ref, major: Ref, packed: Ref) -> tuple[Any, ...]:
        row, i = _split(major[p], blocks)
        return row, n, lax.div(n, np.int32(per_kv)), i, _minor(packed[p])

    grid = (heads, _steps(pairs, interpret))
    return _walk(at, grid, pairs, block=block, blocks=blocks, head_dim=q_BNTH.shape[-1], interpret=interpret)


def _by_key(q_BNTH: Array, k_BKTH: Array, expiry_BT: Array, block: int, interpret: bool) -> _Walk:
    """Heads of keys × pairs × query heads that share them; what belongs to one block of keys is visited in a row."""
    kv_heads, per_kv, blocks = k_BKTH.shape[1], q_BNTH.shape[1] // k_BKTH.shape[1], q_BNTH.shape[2] // block
    pairs = _packed(*flat_pairs(expiry_BT, block, by_key=True))

    def at(k: Any, p: Any, r: Any, _: Ref, major: Ref, packed: Ref) -> tuple[Any, ...]:
        row, j = _split(major[p], blocks)
        return row, k * per_kv + r, k, _minor(packed[p]), j

    grid = (kv_heads, _steps(pairs, interpret), per_kv)
    return _walk(at, grid, pairs, block=block, blocks=blocks, head_dim=q_BNTH.shape[-1], interpret=interpret)


def _steps(pairs: Pairs, interpret: bool) -> Any:
    """The extent of the grid: what is visible; all that could be where it is interpreted, which wants numbers."""
    return pairs.major.shape[0] if interpret else pairs.total


def _split(major: Array, blocks: int) -> tuple[Array, Array]:
    """Row and block within the row; not by `//`, whose care for negative numbers no kernel needs."""
    return lax.div(major, np.int32(blocks)), lax.rem(major, np.int32(blocks))


def _packed(pairs: Pairs, whole: Array) -> Pairs:
    """With 2 · minor + whole as minor: one list less, as scalar memory bounds the longest batch."""
    return pairs._replace(minor=2 * pairs.minor + whole)


def _minor(packed: Array) -> Array:
    """The minor block of a pair; the lowest bit says whether the pair is whole."""
    return lax.shift_right_logical(packed, np.int32(1))


def _walk(
    at: Callable[..., tuple[Any, ...]],
    grid: tuple[Any, ...],
    pairs: Pairs,
    *,
    block: int,
    blocks: int,
    head_dim: int,
    interpret: bool,
) -> _Walk:
    """A walk whose points are at (row, query head, key head, block of queries, block of keys), as `at` says."""

    def spec(shape: tuple[int | None, ...], where: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *point: where(*at(*point)))

    return _Walk(
        grid=grid,
        pairs=pairs,
        q=spec((None, None, block, head_dim), lambda b, n, k, i, j: (b, n, i, 0)),
        k=spec((None, None, block, head_dim), lambda b, n, k, i, j: (b, k, j, 0)),
        expiry=spec((None, block, _LANES), lambda b, n, k, i, j: (b, j, 0)),
        of_query=spec((None, None, 1, block), lambda b, n, k, i, j: (b, n, 0, i)),
        blocks=blocks,
        interpret=interpret,
    )


def _along_sublanes(expiry_BT: Array) -> Array:
    """[B, T, lanes]: a key's expiry stands beside its scores, which lie along the lanes."""
    return jnp.broadcast_to(expiry_BT[:, :, None], (*expiry_BT.shape, _LANES))


class _Step(NamedTuple):
    """Where a kernel stands in its list."""

    live: Array
    """False beyond the list's end."""
    first: Array
    """Of its major block."""
    last: Array
    major: Array
    """Within the row."""
    minor: Array
    whole: Array
    """Whether every query sees every key."""

    def run(self, accumulate: Callable[..., None]) -> None:
        """Calls `accumulate(masked=…)` for a live pair, without a mask where it is whole."""
        for masked in (False, True):
            whole = ~self.whole if masked else self.whole
            pl.when(self.live & whole)(functools.partial(accumulate, masked=masked))


def _step(total_ref: Ref, major_ref: Ref, packed_ref: Ref, blocks: int) -> _Step:
    p = pl.program_id(1)
    major, total = major_ref[p], total_ref[0]
    before, after = major_ref[jnp.maximum(p - 1, 0)], major_ref[jnp.minimum(p + 1, total - 1)]
    return _Step(
        live=p < total,
        first=(p == 0) | (before != major),
        last=(p == total - 1) | (after != major),
        major=_split(major, blocks)[1],
        minor=_minor(packed_ref[p]),
        whole=(packed_ref[p] & 1) == 1,
    )


# --- the kernels ----------------------------------------------------------------


def _forward_kernel(
    total_ref: Ref, major_ref: Ref, packed_ref: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref,
    out_ref: Ref, logsum_ref: Ref, sum_HC: Ref, highest_1C: Ref, total_1C: Ref, *, blocks: int,
) -> None:  # fmt: skip
    """Output and log-sum-exp of one block of queries, accumulated over its blocks of keys."""
    step = _step(total_ref, major_ref, packed_ref, blocks)

    @pl.when(step.live & step.first)
    def _start() -> None:
        sum_HC[...] = jnp.zeros_like(sum_HC)
        highest_1C[...] = jnp.full_like(highest_1C, FLOOR)
        total_1C[...] = jnp.zeros_like(total_1C)

    @step.run
    def _accumulate(masked: bool) -> None:
        scale = power_scale(q_ref.shape[-1])
        scores_SC = _scores(k_ref, q_ref, expiry_ref, step.major, step.minor, masked)
        highest = jnp.maximum(highest_1C[...], jnp.max(scores_SC, axis=0, keepdims=True) * scale)
        weights_SC = jnp.exp2(scores_SC * scale - highest)
        shrink = jnp.exp2(highest_1C[...] - highest)
        highest_1C[...] = highest
        total_1C[...] = total_1C[...] * shrink + jnp.sum(weights_SC, axis=0, keepdims=True)
        sum_HC[...] = sum_HC[...] * shrink + _product(v_ref[...], weights_SC.astype(v_ref.dtype), ((0,), (0,)))

    @pl.when(step.live & step.last)
    def _finish() -> None:
        total = jnp.where(total_1C[...] > 0, total_1C[...], 1.0)
        out_ref[...] = (sum_HC[...] / total).T.astype(out_ref.dtype)
        logsum_ref[...] = highest_1C[...] + jnp.log2(total)


def _query_gradient_kernel(
    total_ref: Ref, major_ref: Ref, packed_ref: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref,
    d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref, dq_ref: Ref, sum_HC: Ref, *, blocks: int,
) -> None:  # fmt: skip
    """Gradient of one block of queries, accumulated over its blocks of keys."""
    step = _step(total_ref, major_ref, packed_ref, blocks)

    @pl.when(step.live & step.first)
    def _start() -> None:
        sum_HC[...] = jnp.zeros_like(sum_HC)

    @step.run
    def _accumulate(masked: bool) -> None:
        scores_SC = _scores(k_ref, q_ref, expiry_ref, step.major, step.minor, masked)
        weights_SC = jnp.exp2(scores_SC * power_scale(q_ref.shape[-1]) - logsum_ref[...])
        d_scores_SC = _score_gradients(weights_SC, v_ref, d_out_ref, dot_ref)
        sum_HC[...] += _product(k_ref[...], d_scores_SC.astype(k_ref.dtype), ((0,), (0,)))

    @pl.when(step.live & step.last)
    def _finish() -> None:
        dq_ref[...] = (sum_HC[...].T * q_ref.shape[-1] ** -0.5).astype(dq_ref.dtype)


def _key_gradient_kernel(
    total_ref: Ref, major_ref: Ref, packed_ref: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref, expiry_ref: Ref,
    d_out_ref: Ref, logsum_ref: Ref, dot_ref: Ref, dk_ref: Ref, dv_ref: Ref, dk_SH: Ref, dv_SH: Ref, *, blocks: int,
) -> None:  # fmt: skip
    """Gradients of one block of keys and values, accumulated over its blocks of queries and their heads."""
    step = _step(total_ref, major_ref, packed_ref, blocks)
    head, heads = pl.program_id(2), pl.num_programs(2)

    @pl.when(step.live & step.first & (head == 0))
    def _start() -> None:
        dk_SH[...] = jnp.zeros_like(dk_SH)
        dv_SH[...] = jnp.zeros_like(dv_SH)

    @step.run
    def _accumulate(masked: bool) -> None:
        scores_SC = _scores(k_ref, q_ref, expiry_ref, step.minor, step.major, masked)
        weights_SC = jnp.exp2(scores_SC * power_scale(q_ref.shape[-1]) - logsum_ref[...])
        d_scores_SC = _score_gradients(weights_SC, v_ref, d_out_ref, dot_ref)
        dv_SH[...] += _product(weights_SC.astype(d_out_ref.dtype), d_out_ref[...], ((1,), (0,)))
        dk_SH[...] += _product(d_scores_SC.astype(q_ref.dtype), q_ref[...], ((1,), (0,)))

    @pl.when(step.live & step.last & (head == heads - 1))
    def _finish() -> None:
        dk_ref[...] = (dk_SH[...] * q_ref.shape[-1] ** -0.5).astype(dk_ref.dtype)
        dv_ref[...] = dv_SH[...].astype(dv_ref.dtype)


def _scores(k_ref: Ref, q_ref: Ref, expiry_ref: Ref, query_block: Array, key_block: Array, masked: bool) -> Array:
    """Unscaled scores, float32 [S, C]; LOWEST where a query does not see a key."""
    scores_SC = _product(k_ref[...], q_ref[...], ((1,), (1,)))
    if not masked:
        return scores_SC
    block = expiry_ref.shape[0]
    key = key_block * block + lax.broadcasted_iota(jnp.int32, scores_SC.shape, 0)
    query = query_block * block + lax.broadcasted_iota(jnp.int32, scores_SC.shape, 1)
    return jnp.where((key <= query) & (query < expiry_ref[:, :1]), scores_SC, LOWEST)


def _score_gradients(weights_SC: Array, v_ref: Ref, d_out_ref: Ref, dot_ref: Ref) -> Array:
    """Gradients of the scaled scores, float32 [S, C]."""
    gradients: Array = weights_SC * (_product(v_ref[...], d_out_ref[...], ((1,), (1,))) - dot_ref[...])
    return gradients


def _product(a: Array, b: Array, contracted: tuple[tuple[int], tuple[int]]) -> Array:
    """Matrix product in float32; exact products of float32 inputs."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)
