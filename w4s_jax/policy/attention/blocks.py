"""Which blocks of queries see which blocks of keys: the skipping that every tree attention shares.

expiry → **visible_blocks**, **whole_blocks** → row_pairs | flat_pairs | lists → tree_xla · tree_tpu · tree_gpu

Legend: B rows, T tokens of a row, I blocks of queries, J blocks of keys, P pairs of blocks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

LOWEST = float(np.finfo(np.float32).min)
"""Score of a masked key: finite, so that no difference of two is NaN."""
FLOOR = -1e30
"""Where a running maximum starts: far below any score, and so far above LOWEST that a masked key weighs exactly 0."""
KEPT = "tree_attention"
"""Name of what an attention computes forward and needs backward: remat policies can keep it (`transformer.REMAT`)."""


class Pairs(NamedTuple):
    """Pairs of blocks in the order of `major`; only the first `total` are to be computed."""

    major: Array
    """int32 [P]: the block that results are accumulated for."""
    minor: Array
    """int32 [P]: the block that they come from."""
    total: Array
    """int32 []."""


class Lists(NamedTuple):
    """Indices of true entries, in order."""

    order: Array
    """int32 [..., J]; only the first `total` are to be walked."""
    first: Array
    """int32 [...]: how many come before the others."""
    total: Array
    """int32 [...]."""


def visible_blocks(expiry_BT: Array, query_block: int, key_block: int | None = None) -> Array:
    """Whether any query of block i may see any key of block j, by the latest expiry in each block of keys.

    Args:
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; T a multiple of both blocks.
        query_block: Tokens.
        key_block: Tokens; as `query_block` where None.

    Returns:
        Bool [B, I, J].
    """
    key_block = key_block or query_block
    rows, length = expiry_BT.shape
    latest_BJ = jnp.max(expiry_BT.reshape(rows, -1, key_block), axis=2)
    first_key_J = jnp.arange(0, length, key_block)
    first_query_I = jnp.arange(0, length, query_block)
    causal_IJ = first_key_J[None, :] < (first_query_I + query_block)[:, None]
    return causal_IJ[None] & (first_query_I[None, :, None] < latest_BJ[:, None, :])


def blocks_in_window(positions_BT: Array, size_B: Array, block: int) -> Array:
    """Whether any query of block i may have any key of block j in its window, by the nearest two positions.

    Args:
        positions_BT: int32 [B, T], depth of each token on its path; T a multiple of the block.
        size_B: int32 [B], positions from a query back to the first key it does not see.
        block: Tokens.

    Returns:
        Bool [B, I, J]; positions of padding only ever make it true.
    """
    blocks_BIC = positions_BT.reshape(positions_BT.shape[0], -1, block)
    lowest_BI, highest_BJ = jnp.min(blocks_BIC, axis=2), jnp.max(blocks_BIC, axis=2)
    return lowest_BI[:, :, None] - highest_BJ[:, None, :] < size_B[:, None, None]


def whole_blocks(expiry_BT: Array, query_block: int, key_block: int) -> Array:
    """Whether every query of block i sees every key of block j, so that no mask is needed.

    Args:
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; T a multiple of both blocks.
        query_block: Tokens.
        key_block: Tokens.

    Returns:
        Bool [B, I, J].
    """
    rows, length = expiry_BT.shape
    earliest_BJ = jnp.min(expiry_BT.reshape(rows, -1, key_block), axis=2)
    last_key_J = jnp.arange(key_block - 1, length, key_block)
    first_query_I = jnp.arange(0, length, query_block)
    causal_IJ = last_key_J[None, :] <= first_query_I[:, None]
    return causal_IJ[None] & ((first_query_I + query_block)[None, :, None] <= earliest_BJ[:, None, :])


def row_pairs(expiry_T: Array, block: int, positions_T: Array | None = None, window_size: Array | None = None) -> Pairs:
    """The visible pairs of one row; major are its blocks of queries, in order.

    Args:
        expiry_T: int32, T a multiple of the block.
        block: Tokens.
        positions_T: int32, depth of each token on its path; None: there is no window.
        window_size: int32 [], of a sliding window.
    """
    visible_IJ = visible_blocks(expiry_T[None], block)[0]
    if positions_T is not None and window_size is not None:
        visible_IJ &= blocks_in_window(positions_T[None], window_size[None], block)[0]
    return _listed(visible_IJ)


def flat_pairs(expiry_BT: Array, block: int, *, by_key: bool = False) -> tuple[Pairs, Array]:
    """The visible pairs of all rows as one list; each major block is there, with its diagonal at least.

    Args:
        expiry_BT: int32 [B, T], T a multiple of `block`.
        block: Tokens.
        by_key: Major are blocks of keys instead of queries.

    Returns:
        Pairs whose `major` counts through the rows (row · blocks + block) and whose `minor` is a block of that row, and
        bool [P]: whether every query of a pair sees every key, so that no mask is needed.
    """
    visible_BIJ = visible_blocks(expiry_BT, block)
    visible_BIJ |= jnp.eye(visible_BIJ.shape[1], dtype=bool)[None]
    both = visible_BIJ, whole_blocks(expiry_BT, block, block)
    visible, whole = ((jnp.swapaxes(x, 1, 2) if by_key else x).reshape(-1, x.shape[2]) for x in both)
    pairs = _listed(visible)
    return pairs, whole[pairs.major, pairs.minor]


def lists(visible: Array, first: Array | None = None) -> Lists:
    """The true entries of the last axis as lists, those of `first` before the others.

    Args:
        visible: bool [..., J].
        first: bool [..., J], true at visible entries alone; None: at none.
    """
    first = jnp.zeros_like(visible) if first is None else first
    order = jnp.argsort(jnp.where(first, 0, jnp.where(visible, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
    return Lists(order, *(jnp.sum(x, axis=-1, dtype=jnp.int32) for x in (first, visible)))


def _listed(visible: Array) -> Pairs:
    """The true entries of [majors, minors] first, in order."""
    minors = visible.shape[1]
    order, _, total = lists(visible.reshape(-1))
    return Pairs(order // minors, order % minors, total)


def power_scale(head_dim: int) -> float:
    """What a product of query and key is multiplied with, so that 2 to its power is the softmax's exponential."""
    return math.log2(math.e) / math.sqrt(head_dim)


def kept(out: Array, logsum: Array) -> tuple[Array, Array]:
    """The output and its log-sum-exp, under the name by which a remat policy keeps them."""
    return checkpoint_name(out, KEPT), checkpoint_name(logsum, KEPT)


def padded(x_BT: Array, block: int) -> Array:
    """[B, T, …] with T a multiple of the block; zeros are keys that nobody sees."""
    return jnp.pad(x_BT, [(0, 0), (0, -x_BT.shape[1] % block)] + [(0, 0)] * (x_BT.ndim - 2))
