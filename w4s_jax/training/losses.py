"""The reward-weighted loss over packed token trees, and a cross-entropy that never holds [tokens, vocab].

hidden states, PackedBatch targets → **Σ weight·nll, metrics** → step

RLAO minimises the mean over actions of exp(r/τ) · (mean NLL of the action's
tokens) (W4S, arXiv 2504.04785; reward-weighted regression, Peters & Schaal
2007). The weights of `training/tree.py` already hold exp(r/τ)/len(action), so the
loss is a weighted sum, divided by the number of actions of the optimiser's global
batch: the denominator is passed in, and neither accumulation nor data parallelism
can change the value.

Legend: B rows, T tokens of a row, M targets of a row, D embed, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from w4s_jax.policy.sharding import VOCAB_AXES, constrain, divided
from w4s_jax.policy.transformer import project
from w4s_jax.types import InputError

Unembed = Callable[[jax.Array], jax.Array]
"""Hidden states [B, M, D] → logits [B, M, V]."""


class LossMetrics(NamedTuple):
    """Sums, so that those of several micro-batches add up; all float32 scalars."""

    weighted_nll: jax.Array
    """Σ weight·nll, nats; the loss before its denominator."""
    nll: jax.Array
    """Σ nll over the targets, nats."""
    targets: jax.Array
    """Tokens that carry loss."""


def vocabulary_parallel(table_VD: jax.Array, mesh: Mesh, compute_dtype: DTypeLike) -> Unembed:
    """The output layer of a whole batch, each device with its own part of the vocabulary.

    The table is laid out once, before any loop over chunks: what travels for a chunk is its hidden states and a sum
    over the vocabulary, not the table and its gradient, which are a thousand times as large.

    Args:
        table_VD: From `Transformer.output_table`.
        mesh: From `make_mesh`; V is padded to a multiple of fsdp·tensor, and padding has no probability.
        compute_dtype: Dtype of the product.
    """
    words = table_VD.shape[0]
    parts = divided(mesh, VOCAB_AXES)
    padded_VD = jnp.pad(table_VD, ((0, -words % parts), (0, 0)))
    padded_VD = constrain(padded_VD, mesh, VOCAB_AXES)

    def unembed(hidden_BMD: jax.Array) -> jax.Array:
        hidden_BMD = constrain(hidden_BMD, mesh, "data")
        logits_BMV = constrain(project(hidden_BMD, padded_VD, compute_dtype), mesh, "data", None, VOCAB_AXES)
        if words == padded_VD.shape[0]:
            return logits_BMV
        return jnp.where(jnp.arange(padded_VD.shape[0])[None, None, :] < words, logits_BMV, -jnp.inf)

    return unembed


def weighted_nll(
    hidden_BTD: jax.Array,
    source_BM: jax.Array,
    token_BM: jax.Array,
    weight_BM: jax.Array,
    unembed: Unembed,
    denominator: jax.Array | float = 1.0,
    *,
    chunk: int = 512,
) -> tuple[jax.Array, LossMetrics]:
    """Σ weight·nll / denominator over `(source, token, weight)` targets.

    Args:
        hidden_BTD: Final hidden states.
        source_BM: int32, the index in [0, T) that predicts each target.
        token_BM: int32, the predicted ids.
        weight_BM: exp(r/τ)/len(action); 0 where there is no target.
        unembed: The model's output layer.
        denominator: Actions of the optimiser's global batch; 1 gives the sum that accumulates.
        chunk: Targets of a row whose logits are held at once.

    Returns:
        The scalar loss in float32, and the sums behind it.

    Raises:
        InputError: the shapes do not agree.
    """
    if not source_BM.shape == token_BM.shape == weight_BM.shape or hidden_BTD.shape[:1] != source_BM.shape[:1]:
        raise InputError(
            f"targets {source_BM.shape}, {token_BM.shape}, {weight_BM.shape} must be equal [B, M] "
            f"with the B of hidden {hidden_BTD.shape}; pack them with training.tree.pack"
        )
    sources_BMD = jnp.take_along_axis(hidden_BTD, source_BM[:, :, None], axis=1, mode="clip")
    nll_BM = chunked_nll(sources_BMD, token_BM, weight_BM != 0, unembed, chunk=chunk)
    total = jnp.sum(weight_BM * nll_BM)
    metrics = LossMetrics(total, jnp.sum(nll_BM), jnp.sum(weight_BM != 0, dtype=jnp.float32))
    return total / denominator, metrics


def chunked_nll(
    hidden_BMD: jax.Array, token_BM: jax.Array, counts_BM: jax.Array, unembed: Unembed, *, chunk: int
) -> jax.Array:
    """-log softmax(unembed(hidden))[token], [B, M] in float32; exactly 0 where `counts` is False.

    The logits of `chunk` targets a row are live at a time, forward and backward (each chunk is rematerialised);
    a chunk in which no row has a target is not computed.
    """
    rows, targets = token_BM.shape
    chunk = min(chunk, targets)
    count = -(-targets // chunk)

    def split(x: jax.Array) -> jax.Array:
        """[B, M, …] → [count, B, chunk, …], padded at the end."""
        x = jnp.pad(x, [(0, 0), (0, count * chunk - targets)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, count, chunk, *x.shape[2:]), 1, 0)

    def nll(hidden: jax.Array, token: jax.Array, counts: jax.Array) -> jax.Array:
        logits = unembed(hidden).astype(jnp.float32)  # a bfloat16 sum over the vocabulary loses the tail
        # A sum over the vocabulary, not a gather: where it is sharded, nothing but the sum has to travel.
        hit = jnp.arange(logits.shape[-1])[None, None, :] == token[:, :, None]
        value = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
        return jnp.where(counts, value, 0.0)

    def one(piece: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        nothing = jnp.zeros(piece[1].shape, jnp.float32)
        return jnp.asarray(jax.lax.cond(jnp.any(piece[2]), nll, lambda *_: nothing, *piece))

    pieces = (split(hidden_BMD), split(token_BM), split(counts_BM))
    nll_PBM = jax.lax.map(jax.checkpoint(one), pieces)
    return jnp.moveaxis(nll_PBM, 0, 1).reshape(rows, count * chunk)[:, :targets]
