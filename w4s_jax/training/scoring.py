"""Log-probabilities of given tokens under a model.

ids → **token_logprobs** → one natural log a token        (`experiments.score`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w4s_jax.policy import sharding
from w4s_jax.policy.attention import attend_trees, tree_attention_for
from w4s_jax.policy.transformer import Transformer
from w4s_jax.training.cross_entropy import OutputLayer, chunked_nll
from w4s_jax.types import InputError

PyTree = Any
_ROUND = 128
"""Lengths are padded to a multiple of it, so that few programs are compiled."""
_CHUNK = 512
"""Tokens whose logits are held at once."""


def token_logprobs(model: Transformer, variables: dict[str, PyTree], ids: Sequence[int], mesh: Mesh) -> np.ndarray:
    """Natural log of p(token | the tokens before it), at temperature 1.

    Args:
        model: The decoder.
        variables: Its variables, on the mesh.
        ids: The tokens; at most `max_positions` of the model.
        mesh: From `policy.sharding.make_mesh`.

    Returns:
        float32 [len(ids)]; NaN for the first token, which nothing predicts.

    Raises:
        InputError: There are no tokens, too many, or one that the model does not have.
    """
    config = model.config
    if not 1 <= len(ids) <= config.max_positions:
        raise InputError(f"{len(ids)} tokens to score; the model takes 1 to {config.max_positions}")
    if not 0 <= min(ids) <= max(ids) < config.vocab_size:
        raise InputError(f"token ids from {min(ids)} to {max(ids)}; the model has 0 to {config.vocab_size - 1}")
    # One row a data shard, of which the first one is real: a row cannot be split over devices.
    rows = sharding.divided(mesh, sharding.BATCH_AXES)
    tokens = np.zeros((rows, -(-len(ids) // _ROUND) * _ROUND), np.int32)
    tokens[0, : len(ids)] = ids
    nll_BT = _nll(model, mesh)(variables, jax.device_put(tokens, sharding.batch_sharding(mesh)), np.int32(len(ids)))
    logprobs: np.ndarray = -np.asarray(nll_BT, np.float32)[0, : len(ids)]
    return np.append(np.float32(np.nan), logprobs[: len(ids) - 1])


def _nll(model: Transformer, mesh: Mesh) -> Callable[..., jax.Array]:
    """(variables, tokens_BT, length) → nll_BT of each token's successor, float32, 0 past the end."""
    apply: Callable[..., Any] = model.clone(mesh=mesh).apply
    attention = tree_attention_for(mesh, model.config.head_dim, windowed=model.config.is_windowed)
    attention = sharding.by_shard(attention, mesh, model.config.num_kv_heads)

    def nll(variables: PyTree, tokens_BT: jax.Array, length: jax.Array) -> jax.Array:
        rows, size = tokens_BT.shape
        index_BT = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), tokens_BT.shape)
        expiry_BT = jnp.where((jnp.arange(rows) == 0)[:, None] & (index_BT < length), length, 0)
        hidden_BTD, _ = apply(variables, tokens_BT, index_BT, attend_trees(attention, expiry_BT, index_BT))
        following_BT = jnp.roll(tokens_BT, -1, axis=1)
        counts_BT = (expiry_BT > 0) & (index_BT + 1 < length)
        layer = OutputLayer.of(apply(variables, method="output_table"), mesh, model.compute_dtype, learns=False)
        return chunked_nll(hidden_BTD, following_BT, counts_BT, layer, chunk=_CHUNK)

    return jax.jit(nll, out_shardings=sharding.replicated(mesh))
