"""Which attention runs where.

platform, head_dim → **tree_attention_for**, **cached_attention_for** → attention        (of training, of decoding)

TPUs and NVIDIA GPUs have kernels of their own for token trees, GPUs one for the decode cache; everything
else, and every head size a kernel cannot take, runs the same block skipping in plain XLA, and a
warning says so where a chip could do better.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from w4s_jax.policy import blockwise_attention, cached_attention, tpu_attention
from w4s_jax.policy.sharding import TreeAttention

if importlib.util.find_spec("jax.experimental.pallas.triton"):
    from w4s_jax.policy import gpu_attention, gpu_decoding
else:  # jax 0.11 calls Pallas on Triton deprecated
    gpu_attention = gpu_decoding = None  # type: ignore[assignment]

CachedAttention = Callable[..., jax.Array]
"""(q_GMNH, k_GMKH, v_GMKH, cache, layer, prompt_length_G, suffix_length_G) → out_GMNH."""
_LOG = logging.getLogger(__name__)


def tree_attention_for(mesh: Mesh, head_dim: int) -> TreeAttention:
    """The attention over token trees for the devices of a mesh, present or described.

    Args:
        mesh: whose devices will run it.
        head_dim: H.
    """
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return blockwise_attention.tree_attention
    if device.platform == "tpu" and head_dim % 64 == 0:
        return tpu_attention.tree_attention
    if _triton_takes(device, head_dim):
        return gpu_attention.tree_attention
    _LOG.warning(
        "no attention kernel for head_dim=%d on %s (%s, jax %s): plain XLA instead, which is slower",
        *(head_dim, device.platform, device.device_kind, jax.__version__),
    )
    return blockwise_attention.tree_attention


def cached_attention_for(device: jax.Device, head_dim: int, block: int) -> CachedAttention:
    """The attention over the decode cache for a device.

    Args:
        device: That runs it, present or described.
        head_dim: H.
        block: Cached tokens that plain XLA attends to at a time.
    """
    if _triton_takes(device, head_dim):
        return gpu_decoding.cached_attention
    return functools.partial(cached_attention.cached_attention, block=block)


def _triton_takes(device: jax.Device, head_dim: int) -> bool:
    return device.platform in ("gpu", "cuda") and gpu_attention is not None and head_dim in gpu_attention.HEAD_DIMS
