"""The decoder: Qwen2/2.5, Qwen3, Llama 3 and Gemma 3 in one Linen module.

tokens, positions, `attend` → **Transformer** → hidden → unembed → logits

Pre-norm blocks of grouped-query attention with rotary positions and a gated
feed-forward (Touvron et al., arXiv 2302.13971); what families add to that stands in
`families.TRAITS`, what parameters there are in `parameters`. The
attention itself is handed in by the caller, and with it the cache, so one model
serves training, prefill and decoding. Layers are stacked on a leading axis and
scanned: compile time does not grow with depth. Where layers differ in kind (Gemma 3),
the kind goes through the scan as data: its window, and which of two rotations it takes.

Variables: `params` = {embed, layers, final_norm[, unembed]}, every leaf below
`layers` with a leading layer axis; `lora` = {layers} iff the model has adapters.

Legend: B batch, T tokens, L layers, N query heads, K key/value heads, H head_dim,
D embed, F mlp, V vocab.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.typing import DTypeLike

from w4s_jax.policy import parameters, sharding
from w4s_jax.policy.attention.blocks import KEPT
from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.families import Activation, LayerKind
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.rope import Rope, rope_tables, rotate
from w4s_jax.types import InputError

PyTree = Any
Attend = Callable[..., tuple[Array, PyTree]]
"""(q_BTNH, k_BTKH, v_BTKH, layer_cache[, window_size]) → (out_BTNH, new_layer_cache); q and k are rotated, not scaled.

Models without sliding windows never give the last one; the others give every layer's, `UNBOUNDED` in global ones."""

_ATTENTION = jax.checkpoint_policies.save_only_these_names(KEPT)
REMAT: Mapping[str, Callable[..., bool] | None] = MappingProxyType(
    {
        "none": None,
        "full": jax.checkpoint_policies.nothing_saveable,
        "attention": _ATTENTION,
        "dots": jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENTION
        ),
    }
)
"""What the backward pass keeps of a layer: all; its input alone; that and what its attention found; that and the
outputs of its linear maps."""

_ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = MappingProxyType(
    {Activation.SILU: nn.silu, Activation.GELU_TANH: functools.partial(nn.gelu, approximate=True)}
)
_kernel_init = nn.initializers.normal(stddev=0.02)


class Kind(NamedTuple):
    """What sets a layer apart in a model with sliding windows; arrays [L] outside of the scan."""

    is_local: Array
    """bool: takes the rotation of local layers."""
    window_size: Array
    """int32: tokens that a query sees, itself included; `UNBOUNDED` in global layers."""

    @classmethod
    def of_layers(cls, config: ModelConfig) -> Kind | None:
        """One a layer; None where all are global."""
        if config.window is None or not config.is_windowed:
            return None
        is_local = np.array([kind is LayerKind.LOCAL for kind in config.layer_kinds])
        return cls(jnp.asarray(is_local), jnp.asarray(np.where(is_local, config.window, UNBOUNDED), jnp.int32))


UNBOUNDED = 2**30
"""A window that no context fills."""


class RMSNorm(nn.Module):
    """x / rms(x) · scale over the last axis, in float32 (Zhang & Sennrich, arXiv 1910.07467)."""

    size: int
    eps: float
    unit_offset: bool
    """Whether the scale is stored less one."""
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises; same shape and dtype as `x`."""
        init = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
        scale = self.param("scale", init, (self.size,), self.param_dtype)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = scale.astype(jnp.float32) + 1.0 if self.unit_offset else scale.astype(jnp.float32)
        scale = jnp.expand_dims(scale, tuple(range(x.ndim - 1)))
        return (normed * scale).astype(x.dtype)


class Linear(nn.Module):
    """A map from the trailing `in_dims` to `out_dims`, with an optional bias and adapter."""

    in_dims: tuple[int, ...]
    out_dims: tuple[int, ...]
    use_bias: bool
    compute_dtype: DTypeLike
    param_dtype: DTypeLike
    lora: LoraConfig | None

    @nn.compact
    def __call__(self, x: Array, adapted: Array | None = None) -> Array:
        """[..., *in_dims] → [..., *out_dims] in the compute dtype; `adapted` is x again, for the adapter."""
        kernel = self.param("kernel", _kernel_init, self.in_dims + self.out_dims, self.param_dtype)
        y = self._map(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.out_dims, self.param_dtype)
            y += jnp.expand_dims(bias.astype(self.compute_dtype), tuple(range(y.ndim - len(self.out_dims))))
        if self.lora is not None:
            a = self.variable("lora", "a", self._init_a).value
            b = self.variable("lora", "b", jnp.zeros, (self.lora.rank, *self.out_dims), jnp.float32).value
            y += self.lora.scaling * self._map(self._map(x if adapted is None else adapted, a), b, in_ndim=1)
        return y

    def _init_a(self) -> Array:
        assert self.lora is not None
        return _kernel_init(self.make_rng("params"), (*self.in_dims, self.lora.rank), jnp.float32)

    def _map(self, x: Array, kernel: Array, in_ndim: int | None = None) -> Array:
        x, kernel = x.astype(self.compute_dtype), kernel.astype(self.compute_dtype)
        return jnp.tensordot(x, kernel, axes=len(self.in_dims) if in_ndim is None else in_ndim)


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each on a normed residual stream."""

    config: ModelConfig
    compute_dtype: DTypeLike
    param_dtype: DTypeLike
    lora: LoraConfig | None
    mesh: Mesh | None

    @nn.compact
    def __call__(
        self, x_BTD: Array, rope: Rope, attend: Attend, layer_cache: PyTree, window_size: Array | None = None
    ) -> tuple[Array, PyTree]:
        """Returns the residual stream [B, T, D] and what `attend` made of the layer's cache."""
        traits = self.config.traits
        out_BTD, new_cache = self._attention(self._norm("attn_norm")(x_BTD), rope, attend, layer_cache, window_size)
        x_BTD += self._norm("attn_post_norm")(out_BTD) if traits.post_norms else out_BTD
        out_BTD = self._feed_forward(self._norm("mlp_norm")(x_BTD))
        x_BTD += self._norm("mlp_post_norm")(out_BTD) if traits.post_norms else out_BTD
        return sharding.constrain(x_BTD, self.mesh, sharding.BATCH_AXES), new_cache

    def _attention(
        self, x_BTD: Array, rope: Rope, attend: Attend, layer_cache: PyTree, window_size: Array | None
    ) -> tuple[Array, PyTree]:
        c, adapted = self.config, self._adapted(x_BTD)
        q_BTNH = self._linear("q")(x_BTD, adapted)
        k_BTKH = self._linear("k")(x_BTD, adapted)
        v_BTKH = self._linear("v")(x_BTD, adapted)
        if c.traits.qk_norm:
            q_BTNH, k_BTKH = self._norm("q_norm")(q_BTNH), self._norm("k_norm")(k_BTKH)
        q_BTNH, k_BTKH = rotate(q_BTNH, rope), rotate(k_BTKH, rope)
        if c.query_scale is not None:  # an attention divides by the root of H
            q_BTNH *= jnp.asarray(math.sqrt(c.head_dim / c.query_scale), q_BTNH.dtype)
        of_kind = () if window_size is None else (window_size,)
        out_BTNH, new_cache = attend(q_BTNH, k_BTKH, v_BTKH, layer_cache, *of_kind)
        return self._linear("o")(out_BTNH), new_cache

    def _feed_forward(self, x_BTD: Array) -> Array:
        adapted = self._adapted(x_BTD)
        gate_BTF = self._linear("gate")(x_BTD, adapted)
        up_BTF = self._linear("up")(x_BTD, adapted)
        out_BTD: Array = self._linear("down")(_ACTIVATIONS[self.config.traits.activation](gate_BTF) * up_BTF)
        return out_BTD

    def _adapted(self, x: Array) -> Array | None:
        """The input of adapters, as a value of its own.

        Gradients of the maps, which are sums over `tensor`, then add up apart from those of adapters, which are not,
        and the compiler sums over devices once instead of once a map.
        """
        return None if self.lora is None else jnp.copy(x)

    def _norm(self, name: str) -> RMSNorm:
        return _rms_norm(self.config, parameters.NORM[name].axis, self.param_dtype, name)

    def _linear(self, name: str) -> Linear:
        part, c = parameters.LINEAR[name], self.config
        in_dims, out_dims = (tuple(map(c.axis_size, axes)) for axes in (part.reads, part.writes))
        return Linear(in_dims, out_dims, part.biased(c), self.compute_dtype, self.param_dtype, self.lora, name=name)


def _rms_norm(config: ModelConfig, axis: str, param_dtype: DTypeLike, name: str | None = None) -> RMSNorm:
    return RMSNorm(config.axis_size(axis), config.norm_eps, config.traits.unit_offset, param_dtype, name=name)


class Transformer(nn.Module):
    """The decoder; a pure function of (variables, inputs) through `apply`.

    Example:
        >>> model = Transformer(config=PRESETS["Qwen3-0.6B"], remat="full")  # doctest: +SKIP
        >>> hidden, _ = model.apply(variables, tokens, positions, attend)  # doctest: +SKIP
        >>> logits = model.apply(variables, hidden, method="unembed")  # doctest: +SKIP
    """

    config: ModelConfig
    compute_dtype: DTypeLike
    """Dtype of activations and matrix products; norms, RoPE, softmax and logits are float32."""
    remat: str
    """A key of `REMAT`."""
    param_dtype: DTypeLike = jnp.float32
    """Dtype in which the base is stored."""
    lora: LoraConfig | None = None
    mesh: Mesh | None = None
    """Where given, the residual stream is held to the batch sharding of `sharding.py`."""

    def setup(self) -> None:
        """Declares the embedding, the stacked layers and the unembedding."""
        if self.remat not in REMAT:
            raise InputError(f"remat={self.remat!r} is not known; allowed: {', '.join(REMAT)}")
        c = self.config
        rows, width = parameters.EMBEDDING.shape(c)
        self.embed = nn.Embed(rows, width, param_dtype=self.param_dtype, embedding_init=_kernel_init)
        self.layers = Block(c, self.compute_dtype, self.param_dtype, self.lora, self.mesh)
        self.final_norm = _rms_norm(c, parameters.FINAL_NORM.axes[0], self.param_dtype)
        if not c.tie_embeddings:
            self.unembedding = self.param("unembed", _kernel_init, parameters.UNEMBEDDING.shape(c), self.param_dtype)

    def __call__(
        self, tokens_BT: Array, positions_BT: Array, attend: Attend, cache: PyTree = None
    ) -> tuple[Array, PyTree]:
        """Runs the layers.

        Args:
            tokens_BT: int32 [B, T].
            positions_BT: int32 [B, T], for RoPE alone; what sees what is `attend`'s.
            attend: The attention; see `Attend`.
            cache: Leaves with a leading layer axis; each layer's slice goes to `attend`.

        Returns:
            (hidden, new_cache): hidden [B, T, D] after the final norm, in the compute
            dtype, and the layers' new caches stacked on a leading axis.
        """
        x_BTD = look_up(self.embed.embedding, tokens_BT).astype(self.compute_dtype)
        if self.config.traits.scaled_embedding:  # by the root as the compute dtype rounds it, as in transformers
            x_BTD *= jnp.asarray(math.sqrt(self.config.embed_dim), self.compute_dtype)
        # Each device looks up its columns of the table; in two steps, the way to whole rows is one all-to-all.
        x_BTD = sharding.constrain(x_BTD, self.mesh, "data", None, "fsdp")
        x_BTD = sharding.constrain(x_BTD, self.mesh, sharding.BATCH_AXES)
        rope = rope_tables(positions_BT, self.config)
        kinds = Kind.of_layers(self.config)
        local_rope = rope if kinds is None else rope_tables(positions_BT, self.config, local=True)

        def layer(block: Block, x: Array, of_layer: tuple[PyTree, Kind | None]) -> tuple[Array, PyTree]:
            layer_cache, kind = of_layer
            if kind is None:
                return block(x, rope, attend, layer_cache)
            turned = Rope(*(jnp.where(kind.is_local, a, b) for a, b in zip(local_rope, rope, strict=True)))
            return block(x, turned, attend, layer_cache, kind.window_size)

        scanned = nn.scan(
            layer if self.remat == "none" else nn.remat(layer, policy=REMAT[self.remat], prevent_cse=False),
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            length=self.config.num_layers,
        )
        x_BTD, new_cache = scanned(self.layers, x_BTD, (cache, kinds))
        return self.final_norm(x_BTD), new_cache

    def output_table(self) -> Array:
        """The rows whose products with a hidden state are its logits, [V, D], as they are stored."""
        return self.embed.embedding if self.config.tie_embeddings else self.unembedding.T

    def unembed(self, hidden: Array) -> Array:
        """Logits, float32 [..., V], of hidden states [..., D]; any leading dims, so callers can go chunk by chunk."""
        return project(hidden, self.output_table(), self.compute_dtype)


@jax.custom_vjp
def look_up(table_VD: Array, tokens_BT: Array) -> Array:
    """Rows of a table, [B, T, D]; the gradients of a token that stands a thousand times add up in float32."""
    return jnp.take(table_VD, tokens_BT, axis=0)


def _look_up_forward(table_VD: Array, tokens_BT: Array) -> tuple[Array, Any]:
    return look_up(table_VD, tokens_BT), (table_VD, tokens_BT)


def _look_up_backward(saved: Any, d_rows_BTD: Array) -> tuple[Array, np.ndarray]:
    table_VD, tokens_BT = saved
    d_table_VD = jnp.zeros(table_VD.shape, jnp.float32).at[tokens_BT].add(d_rows_BTD.astype(jnp.float32))
    return d_table_VD.astype(table_VD.dtype), np.zeros(tokens_BT.shape, jax.dtypes.float0)


look_up.defvjp(_look_up_forward, _look_up_backward)


def project(hidden: Array, table_VD: Array, compute_dtype: DTypeLike) -> Array:
    """Logits, float32 [..., V], of hidden states [..., D] over an output table."""
    hidden, table_VD = hidden.astype(compute_dtype), table_VD.astype(compute_dtype)
    return jnp.einsum("...D,VD->...V", hidden, table_VD, preferred_element_type=jnp.float32)


def init_variables(model: Transformer, key: Array) -> dict[str, PyTree]:
    """Fresh variables of a model: normal of deviation 0.02, norms one, biases and LoRA's B zero."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return dict(model.init(key, tokens, tokens, lambda q, k, v, *_: (q, ())))


def init_lora(model: Transformer, key: Array) -> PyTree:
    """A fresh `lora` collection for a base that is loaded; under `jit` the base is never drawn."""
    return jax.jit(lambda key: init_variables(model, key)["lora"])(key)


def param_shapes(
    config: ModelConfig, param_dtype: DTypeLike = jnp.float32, lora: LoraConfig | None = None
) -> dict[str, PyTree]:
    """Shapes and dtypes of the variables of a model, without allocating any."""
    model = Transformer(config=config, param_dtype=param_dtype, lora=lora, compute_dtype="float32", remat="none")
    shapes: dict[str, PyTree] = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    return shapes
