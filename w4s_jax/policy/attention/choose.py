"""Which attention runs where, and how a model calls it.

platform, head_dim, windowed → **tree_attention_for** → **attend_trees** → `attend`     (of training and prefill)
platform, head_dim, windowed → **cached_attention_for**                                (of decoding)

TPUs and NVIDIA GPUs have kernels of their own for token trees, GPUs one for the decode cache. Everything else runs the
same block skipping in plain XLA: other devices, head sizes that a kernel cannot take, and models with sliding-window
layers. A warning says so where a chip could do better.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from w4s_jax.policy.attention import cache_xla, tree_tpu, tree_xla
from w4s_jax.policy.attention.types import CachedAttention, TreeAttention, Window

if importlib.util.find_spec("jax.experimental.pallas.triton"):
    from w4s_jax.policy.attention import cache_gpu, tree_gpu
else:  # jax 0.11 calls Pallas on Triton deprecated
    cache_gpu = tree_gpu = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)


def tree_attention_for(mesh: Mesh, head_dim: int, *, windowed: bool = False) -> TreeAttention:
    """The attention over token trees for the devices of a mesh, present or described.

    Args:
        mesh: Whose devices will run it.
        head_dim: H.
        windowed: Whether it will be given a `Window`, which no kernel takes.
    """
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return tree_xla.tree_attention
    if not windowed and device.platform == "tpu" and head_dim % 64 == 0:
        return tree_tpu.tree_attention
    if not windowed and _triton_takes(device, head_dim):
        return tree_gpu.tree_attention
    _LOG.warning(
        "no attention kernel for %shead_dim=%d on %s (%s, jax %s): plain XLA instead, which is slower",
        *("sliding windows and " if windowed else "", head_dim, device.platform, device.device_kind, jax.__version__),
    )
    return tree_xla.tree_attention


def cached_attention_for(device: jax.Device, head_dim: int, block: int, *, windowed: bool = False) -> CachedAttention:
    """The attention over the decode cache for a device.

    Args:
        device: That runs it, present or described.
        head_dim: H.
        block: Cached tokens that plain XLA attends to at a time.
        windowed: Whether it will be given the size of a window, which no kernel takes.
    """
    if not windowed and _triton_takes(device, head_dim):
        return cache_gpu.cached_attention
    return functools.partial(cache_xla.cached_attention, block=block)


def attend_trees(attention: TreeAttention, expiry_BT: Array, positions_BT: Array) -> Any:
    """The `attend` of a model over rows of token trees; a prompt is a tree without branches.

    Args:
        attention: From `tree_attention_for`, or the same sharded by `sharding.by_shard`.
        expiry_BT: int32, first index of the row that no longer sees the key; 0 for padding.
        positions_BT: int32, depth of each token on its path.

    Returns:
        A `transformer.Attend` that hands out no cache.
    """

    def attend(q: Array, k: Array, v: Array, _: Any, window_size: Array | None = None) -> tuple[Array, tuple[()]]:
        if window_size is None:
            return attention(q, k, v, expiry_BT), ()
        return attention(q, k, v, expiry_BT, Window(positions_BT, window_size)), ()

    return attend


def _triton_takes(device: jax.Device, head_dim: int) -> bool:
    return device.platform in ("gpu", "cuda") and tree_gpu is not None and head_dim in tree_gpu.HEAD_DIMS
