"""What an attention takes and gives: the records and signatures that the model, the trainer and the sampler share.

Transformer ─ `attend` ─ **TreeAttention** | **CachedAttention** ─ reference · tree_* · cache_*

Legend: B rows, T tokens of a row or of a prompt, G slots (one prompt each), M samples of a prompt, S suffix capacity,
L layers, N query heads, K key/value heads, H head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

TreeAttention = Callable[..., Array]
"""(q_BTNH, k_BTKH, v_BTKH, expiry_BT[, window]) → out_BTNH; key k is visible to query q ⇔ k ≤ q < expiry[k], and, where
a `Window` is given, q's position is less than its size above k's. Only what `tree_attention_for(windowed=True)` chooses
is given one."""
CachedAttention = Callable[..., Array]
"""(q_GMNH, k_GMKH, v_GMKH, cache, layer, prompt_length_G, suffix_length_G[, window_size]) → out_GMNH."""


class Window(NamedTuple):
    """A sliding window along each token's own path, not along the row that the token lies in."""

    positions_BT: Array
    """int32: depth of each token on its path, as for RoPE."""
    size: Array
    """int32 []: a query sees keys of its path that are less than this many positions back, itself included."""


class KVCache(NamedTuple):
    """Keys and values of all layers; T and S are multiples of the block.

    A head's tokens lie together, as its products read them: in another order the compiler would turn the whole cache
    round before a chunk of steps and back after it.
    """

    prompt_k_LGKTH: Array
    prompt_v_LGKTH: Array
    suffix_k_LGKMSH: Array
    """Keys of the prompt's last token and of the sampled tokens but the newest."""
    suffix_v_LGKMSH: Array
