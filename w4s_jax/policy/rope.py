"""Rotary positions (Su et al., arXiv 2104.09864).

positions → **rope_tables** → Rope → **rotate** (queries, keys)

Legend: B batch, T tokens, N heads, H head_dim.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.families import LinearRopeScaling, RopeScaling


class Rope(NamedTuple):
    """Cosines and sines of a batch of positions, float32 [B, T, H/2]."""

    cos: Array
    sin: Array


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angle per position of each pair of dims, float32 [H/2].

    In float32 throughout and in the order of `transformers`: at position 30,000 one
    unit in the last place of a frequency already turns the angle by 0.002.
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    freq: np.ndarray = np.float32(1.0) / np.power(np.float32(theta), exponent)
    if scaling is None:
        return freq
    if isinstance(scaling, LinearRopeScaling):
        return freq / np.float32(scaling.factor)
    wavelength = np.float32(2 * math.pi) / freq
    turns = np.float32(scaling.original_max_positions) / wavelength  # within the context of the pre-training
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = (turns - np.float32(low)) / np.float32(high - low)
    stretched = freq / np.float32(scaling.factor)
    between = (np.float32(1.0) - keep) * stretched + keep * freq
    return np.where(turns < low, stretched, np.where(turns > high, freq, between))


def rope_tables(positions_BT: Array, config: ModelConfig, *, local: bool = False) -> Rope:
    """Rotation of every position; in float32, as bfloat16 cannot tell positions above 256 apart.

    Args:
        positions_BT: int32.
        config: Of the model.
        local: Whether for layers with a sliding window.
    """
    theta, scaling = (config.local_rope_theta, None) if local else (config.rope_theta, config.rope_scaling)
    freq = jnp.asarray(inverse_frequencies(config.head_dim, theta, scaling))
    angles = positions_BT.astype(jnp.float32)[:, :, None] * freq[None, None, :]
    return Rope(jnp.cos(angles), jnp.sin(angles))


def rotate(x_BTNH: Array, rope: Rope) -> Array:
    """Rotates the pairs (i, i + H/2) of each head, in float32; same shape and dtype as `x_BTNH`."""
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = rope.cos[:, :, None, :], rope.sin[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTNH.dtype)
