"""The negative log-likelihood of given tokens, without ever holding [tokens, vocab].

hidden states, (source, token) targets → **target_nll** → nll [B, M] → losses, scoring

The logits of a few hundred targets a row are live at a time, forward and backward, and each
device has its own part of the vocabulary. What a loss makes of the values is `losses.py`'s.

Legend: B rows, T tokens of a row, M targets of a row, P chunks, D embed, V vocab.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from w4s_jax.policy.sharding import VOCAB_AXES, constrain, divided


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How logits are computed, apart from the numbers."""

    words: int
    """V before padding."""
    mesh: Mesh
    compute_dtype: jnp.dtype
    learns: bool

    def logits(self, hidden_BMD: jax.Array, narrow_VD: jax.Array) -> jax.Array:
        """float32 [B, M, V]; a bfloat16 sum over the vocabulary would lose the tail."""
        hidden_BMD = constrain(hidden_BMD.astype(self.compute_dtype), self.mesh, "data")
        logits_BMV = jnp.einsum("BMD,VD->BMV", hidden_BMD, narrow_VD, preferred_element_type=jnp.float32)
        logits_BMV = self.split(logits_BMV)
        if self.words == narrow_VD.shape[0]:
            return logits_BMV
        return jnp.where(jnp.arange(narrow_VD.shape[0])[None, None, :] < self.words, logits_BMV, -jnp.inf)

    def row_groups(self, rows: int) -> int:
        """Groups of rows that lie apart over `data`; their gradients of the table are summed after the last chunk."""
        data = self.mesh.shape["data"]
        return data if rows % data == 0 else 1

    def split(self, x_BMV: jax.Array) -> jax.Array:
        """Holds logits, or their gradients, to where the vocabulary lies."""
        return constrain(x_BMV, self.mesh, "data", None, VOCAB_AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputLayer:
    """From hidden states to logits, each device with its own part of the vocabulary.

    The table is laid out once, before any loop over chunks: what travels for a chunk is its hidden states and a sum
    over the vocabulary, not the table and its gradient, which are a thousand times as large.
    """

    table_VD: jax.Array
    """Padded to a multiple of the parts; padding has no probability."""
    plan: Plan

    @classmethod
    def of(cls, table_VD: jax.Array, mesh: Mesh, compute_dtype: DTypeLike, *, learns: bool = True) -> OutputLayer:
        """Lays a table out.

        Args:
            table_VD: From `Transformer.output_table`.
            mesh: From `make_mesh`; V is split over fsdp·tensor.
            compute_dtype: Dtype of the products.
            learns: Whether its gradient is asked for.
        """
        words = table_VD.shape[0]
        table_VD = jnp.pad(table_VD, ((0, -words % divided(mesh, VOCAB_AXES)), (0, 0)))
        plan = Plan(words=words, mesh=mesh, compute_dtype=jnp.dtype(compute_dtype), learns=learns)
        return cls(table_VD=constrain(table_VD, mesh, VOCAB_AXES), plan=plan)


def target_nll(
    hidden_BTD: jax.Array,
    source_BM: jax.Array,
    token_BM: jax.Array,
    counts_BM: jax.Array,
    layer: OutputLayer,
    *,
    chunk: int,
) -> jax.Array:
    """-log p(token | what its source has seen), [B, M] in float32; exactly 0 where `counts` is False.

    Args:
        hidden_BTD: Final hidden states.
        source_BM: int32, the index in [0, T) that predicts each target.
        token_BM: int32, the predicted ids.
        counts_BM: Bool, the targets whose value is asked for.
        layer: The model's output layer.
        chunk: Targets of a row whose logits are held at once.
    """
    sources_BMD = jnp.take_along_axis(hidden_BTD, source_BM[:, :, None], axis=1, mode="clip")
    return chunked_nll(sources_BMD, token_BM, counts_BM, layer, chunk=chunk)


def chunked_nll(
    hidden_BMD: jax.Array, token_BM: jax.Array, counts_BM: jax.Array, layer: OutputLayer, *, chunk: int
) -> jax.Array:
    """-log softmax(logits)[token], [B, M] in float32; exactly 0 where `counts` is False.

    The logits of `chunk` targets a row are live at a time, forward and backward, where they are computed again; a chunk
    in which no row has a target is not computed. The table's gradient adds up over chunks in float32: in bfloat16, 32
    chunks would leave two digits of it.
    """
    rows, targets = token_BM.shape
    chunk = min(chunk, targets)
    count = -(-targets // chunk)

    def split(x: jax.Array) -> jax.Array:
        """[B, M, …] → [count, B, chunk, …], padded at the end."""
        x = jnp.pad(x, [(0, 0), (0, count * chunk - targets)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, count, chunk, *x.shape[2:]), 1, 0)

    nll_PBM: jax.Array = _nll(layer.plan, split(hidden_BMD), layer.table_VD, split(token_BM), split(counts_BM))
    return jnp.moveaxis(nll_PBM, 0, 1).reshape(rows, count * chunk)[:, :targets]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll(
    plan: Plan, hidden_PBMD: jax.Array, table_VD: jax.Array, token_PBM: jax.Array, counts_PBM: jax.Array
) -> jax.Array:
    """Piece by piece, [P, B, M]."""
    narrow_VD = table_VD.astype(plan.compute_dtype)

    def compute(hidden_BMD: jax.Array, token_BM: jax.Array, counts_BM: jax.Array) -> jax.Array:
        logits_BMV = plan.logits(hidden_BMD, narrow_VD)
        # A sum over the vocabulary, not a gather: where it is sharded, nothing but the sum has to travel.
        chosen_BM = jnp.sum(jnp.where(_hit(logits_BMV, token_BM), logits_BMV, 0.0), axis=-1)
        return jnp.where(counts_BM, jax.nn.logsumexp(logits_BMV, axis=-1) - chosen_BM, 0.0)

    def one(piece: tuple[jax.Array, ...]) -> jax.Array:
        nothing = jnp.zeros(piece[1].shape, jnp.float32)
        return jnp.asarray(jax.lax.cond(jnp.any(piece[2]), compute, lambda *_: nothing, *piece))

    nll_PBM: jax.Array = jax.lax.map(one, (hidden_PBMD, token_PBM, counts_PBM))
    return nll_PBM


def _nll_forward(plan: Plan, *given: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _nll(plan, *given), given


def _nll_backward(plan: Plan, given: tuple[jax.Array, ...], d_nll_PBM: jax.Array) -> tuple[Any, ...]:
    hidden_PBMD, table_VD, token_PBM, counts_PBM = given
    narrow_VD = table_VD.astype(plan.compute_dtype)
    groups = plan.row_groups(hidden_PBMD.shape[1])

    def grouped(x_BM: jax.Array) -> jax.Array:
        """[B, …] → [G, B / G, …]."""
        return x_BM.reshape(groups, -1, *x_BM.shape[1:])

    def compute(d_table_GVD: Any, piece: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        hidden_BMD, token_BM, counts_BM, d_nll_BM = piece
        logits_BMV = plan.logits(hidden_BMD, narrow_VD)
        scale_BM1 = jnp.where(counts_BM, d_nll_BM, 0.0)[:, :, None]
        d_logits_BMV = scale_BM1 * (jax.nn.softmax(logits_BMV, axis=-1) - _hit(logits_BMV, token_BM))
        d_logits_BMV = plan.split(d_logits_BMV).astype(plan.compute_dtype)
        # Parts of the vocabulary are summed before they are rounded: the mesh decides no digit.
        d_hidden_BMD = jnp.einsum("BMV,VD->BMD", d_logits_BMV, narrow_VD, preferred_element_type=jnp.float32)
        if plan.learns:
            hidden_BMD = constrain(hidden_BMD.astype(plan.compute_dtype), plan.mesh, "data")
            both = grouped(d_logits_BMV), grouped(hidden_BMD)
            d_table_GVD += jnp.einsum("GBMV,GBMD->GVD", *both, preferred_element_type=jnp.float32)
        return d_table_GVD, d_hidden_BMD.astype(piece[0].dtype)

    def one(d_table_GVD: Any, piece: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        skip = jnp.zeros_like(piece[0])
        found: tuple[Any, jax.Array] = jax.lax.cond(
            jnp.any(piece[2]), compute, lambda d, _: (d, skip), d_table_GVD, piece
        )
        return found

    start: Any = ()
    if plan.learns:
        start = constrain(jnp.zeros((groups, *table_VD.shape), jnp.float32), plan.mesh, "data", VOCAB_AXES)
    d_table_GVD, d_hidden_PBMD = jax.lax.scan(one, start, (hidden_PBMD, token_PBM, counts_PBM, d_nll_PBM))
    d_table_VD = jnp.sum(d_table_GVD, axis=0).astype(table_VD.dtype) if plan.learns else jnp.zeros_like(table_VD)
    nothing = (np.zeros(x.shape, jax.dtypes.float0) for x in (token_PBM, counts_PBM))
    return d_hidden_PBMD, d_table_VD, *nothing


_nll.defvjp(_nll_forward, _nll_backward)


def _hit(logits_BMV: jax.Array, token_BM: jax.Array) -> jax.Array:
    """Where the logits are those of the token, bool [B, M, V]."""
    return jnp.arange(logits_BMV.shape[-1])[None, None, :] == token_BM[:, :, None]
