"""Attention, handed to the model as `attend`: over token trees, over prompts, over the decode cache.

q, k, v (after RoPE) → **attention** → out

`reference` is the dense definition that all others are compared with; `tree_xla`, `tree_tpu` and `tree_gpu` skip the
blocks of a row that nothing sees (`blocks`); `cache_xla` and `cache_gpu` decode; `choose` picks by device, head size
and window.
"""

from w4s_jax.policy.attention.choose import attend_trees, cached_attention_for, tree_attention_for
from w4s_jax.policy.attention.reference import (
    causal_attention,
    decode_attention,
    masked_softmax,
    tree_attention_reference,
)
from w4s_jax.policy.attention.types import CachedAttention, KVCache, TreeAttention, Window

__all__ = [
    "CachedAttention",
    "KVCache",
    "TreeAttention",
    "Window",
    "attend_trees",
    "cached_attention_for",
    "causal_attention",
    "decode_attention",
    "masked_softmax",
    "tree_attention_for",
    "tree_attention_reference",
]
