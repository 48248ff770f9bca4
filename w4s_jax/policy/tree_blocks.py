"""Which blocks of queries see which blocks of keys: the skipping that every tree attention shares.

expiry → **visible_blocks** → row_pairs | flat_pairs | lists → the attentions of this room

Legend: B rows, T tokens of a row, I blocks of queries, J blocks of keys (I = J), P pairs of blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

LOWEST = float(np.finfo(np.float32).min)
"""Score of a masked key: finite, so that no difference of two is NaN."""


class Pairs(NamedTuple):
    """Pairs of blocks in the order of `major`; only the first `total` are to be computed."""

    major: Array
    """int32 [P]: the block that results are accumulated for."""
    minor: Array
    """int32 [P]: the block that they come from."""
    total: Array
    """int32 []."""


def visible_blocks(expiry_BT: Array, query_block: int, key_block: int | None = None) -> Array:
    """Whether any query of block i may see any key of block j, by the latest expiry in each block of keys.

    Args:
        expiry_BT: int32 [B, T], first index of the row that no longer sees the key; T a multiple of both blocks.
        query_block: tokens.
        key_block: tokens; as `query_block` where None.

    Returns:
        bool [B, I, J].
    """
    key_block = key_block or query_block
    rows, length = expiry_BT.shape
    latest_BJ = jnp.max(expiry_BT.reshape(rows, -1, key_block), axis=2)
    first_key_J = jnp.arange(0, length, key_block)
    first_query_I = jnp.arange(0, length, query_block)
    causal_IJ = first_key_J[None, :] < (first_query_I + query_block)[:, None]
    return causal_IJ[None] & (first_query_I[None, :, None] < latest_BJ[:, None, :])


def row_pairs(expiry_T: Array, block: int) -> Pairs:
    """The visible pairs of one row; major are its blocks of queries, in order."""
    visible_IJ = visible_blocks(expiry_T[None], block)[0]
    return _listed(visible_IJ)


def flat_pairs(expiry_BT: Array, block: int, *, by_key: bool = False) -> Pairs:
    """The visible pairs of all rows as one list; each major block is there, with its diagonal at least.

    Args:
        expiry_BT: int32 [B, T], T a multiple of `block`.
        block: tokens.
        by_key: major are blocks of keys instead of queries.

    Returns:
        Pairs whose `major` counts through the rows (row · blocks + block) and whose `minor` is a block of that row.
    """
    visible_BIJ = visible_blocks(expiry_BT, block)
    visible_BIJ |= jnp.eye(visible_BIJ.shape[1], dtype=bool)[None]
    if by_key:
        visible_BIJ = jnp.swapaxes(visible_BIJ, 1, 2)
    return _listed(visible_BIJ.reshape(-1, visible_BIJ.shape[2]))


def lists(visible: Array) -> tuple[Array, Array]:
    """The true entries of the last axis: their indices first, in order, and how many there are.

    Args:
        visible: bool [..., J].

    Returns:
        int32 [..., J] and int32 [...].
    """
    order = jnp.argsort(~visible, axis=-1, stable=True).astype(jnp.int32)
    return order, jnp.sum(visible, axis=-1, dtype=jnp.int32)


def _listed(visible: Array) -> Pairs:
    """The true entries of [majors, minors] first, in order."""
    minors = visible.shape[1]
    order, total = lists(visible.reshape(-1))
    return Pairs(order // minors, order % minors, total)


def padded(x_BT: Array, block: int) -> Array:
    """[B, T, …] with T a multiple of the block; zeros are keys that nobody sees."""
    return jnp.pad(x_BT, [(0, 0), (0, -x_BT.shape[1] % block)] + [(0, 0)] * (x_BT.ndim - 2))
