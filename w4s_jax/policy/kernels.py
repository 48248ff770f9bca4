"""Which tree attention runs where.

platform, head_dim → **tree_attention_for** → attention        (Trainer and Generator call it)

TPUs and NVIDIA GPUs have kernels of their own; everything else, and every head size a
kernel cannot take, runs the same block skipping in plain XLA, and a warning says so.
"""

from __future__ import annotations

import logging

import jax
from jax.sharding import Mesh

from w4s_jax.policy import blockwise_attention, tpu_attention
from w4s_jax.policy.sharding import TreeAttention

try:
    from w4s_jax.policy import gpu_attention
except ImportError:  # a jax without Pallas on Triton, which jax 0.11 calls deprecated
    gpu_attention = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)


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
    if device.platform in ("gpu", "cuda") and gpu_attention and head_dim in gpu_attention.HEAD_DIMS:
        return gpu_attention.tree_attention
    _log.warning(
        "no attention kernel for head_dim=%d on %s (%s, jax %s): plain XLA instead, which is slower",
        *(head_dim, device.platform, device.device_kind, jax.__version__),
    )
    return blockwise_attention.tree_attention
