"""Tiny models shared by the policy tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from w4s_jax.policy.attention import causal_attention
from w4s_jax.policy.config import Family, LayerKind, ModelConfig
from w4s_jax.policy.transformer import Transformer, param_shapes

SIZES = {
    "vocab_size": 64,
    "num_layers": 2,
    "embed_dim": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 24,
}
FAMILIES = {
    "qwen2": ModelConfig(**SIZES, family=Family.QWEN2, tie_embeddings=True),
    "qwen3": ModelConfig(**SIZES, family=Family.QWEN3),
    "llama": ModelConfig(**SIZES),
    "gemma3": ModelConfig(
        **SIZES,
        family=Family.GEMMA3,
        query_scale=20.0,
        layer_kinds=(LayerKind.LOCAL, LayerKind.GLOBAL),
        window=3,
        rope_theta=1e4,
        local_rope_theta=100.0,
    ),
}


def draw_variables(config, lora=None, seed=0):
    """Float32 variables of a size at which every layer matters, drawn by numpy (nothing to compile)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        return 1 + 0.1 * noise if path[-1].key == "scale" else 0.2 * noise

    return jax.tree_util.tree_map_with_path(draw, param_shapes(config, lora=lora))


def make(family="llama", **options):
    """A tiny model with its variables."""
    model = Transformer(config=FAMILIES[family], **{"compute_dtype": "float32", "remat": "none", **options})
    return model, draw_variables(model.config, model.lora)


def draw_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 64, (rows, length), dtype=np.int32)


def positions(rows, length):
    """0, 1, … in every row, int32 [rows, length]."""
    return np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))


def causal(lengths):
    """An `attend` for right-padded rows that hands the keys and values out as the cache."""
    lengths = jnp.asarray(lengths, jnp.int32)
    return lambda q, k, v, cache, *window_size: (causal_attention(q, k, v, lengths, *window_size), (k, v))


@functools.partial(jax.jit, static_argnums=0)
def forward(model, variables, tokens, at, lengths):
    """Float32 logits [B, T, V]."""
    hidden, _ = model.apply(variables, tokens, at, causal(lengths))
    return model.apply(variables, hidden, method="unembed")


def logits(model, variables, tokens, lengths=None, at=None):
    """Training forward of whole rows from position 0, unless `at` is given."""
    rows, length = tokens.shape
    lengths = np.full(rows, length) if lengths is None else np.asarray(lengths)
    return forward(model, variables, tokens, positions(rows, length) if at is None else at, lengths)
