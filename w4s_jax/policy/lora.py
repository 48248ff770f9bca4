"""Low-rank adapters on the linear maps of every layer (`parameters.LINEAR`).

variables {params, lora} → training (only `lora` moves) → **merge** → params → hf

W ← W + (alpha / rank) · A B (Hu et al., arXiv 2106.09685). A is normal, B is zero,
so a fresh adapter changes nothing. Departures: no dropout, and adapters are kept
in float32 whatever the base is stored in, because they are small and they learn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from w4s_jax.types import InputError

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Size and strength of the adapters.

    Example:
        >>> LoraConfig(rank=8, alpha=16.0).scaling
        2.0
    """

    rank: int
    """Columns of A; at least 1."""
    alpha: float
    """Numerator of the scaling."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora rank={self.rank} is not positive; for full fine-tuning leave LoRA out")

    @property
    def scaling(self) -> float:
        """Factor of the product A B: alpha / rank."""
        return self.alpha / self.rank


def split_trainable(variables: Mapping[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Splits variables into what learns and what is frozen; `trainable | frozen` is the whole.

    With adapters present they alone learn; else the base does.
    """
    learns = "lora" if "lora" in variables else "params"
    frozen = {name: tree for name, tree in variables.items() if name != learns}
    return {learns: variables[learns]}, frozen


def merge(params: PyTree, adapters: PyTree, config: LoraConfig) -> PyTree:
    """Adds the adapters into the base kernels.

    The product is formed in float32 and rounded once to the kernel's dtype.

    Args:
        params: The `params` collection.
        adapters: The `lora` collection of the same model.
        config: What the adapters were made with.

    Returns:
        A `params` collection for a model without LoRA.
    """
    layers = dict(params["layers"])
    for name, adapter in adapters["layers"].items():
        kernel = layers[name]["kernel"]
        layers[name] = {**layers[name], "kernel": _merged(kernel, adapter["a"], adapter["b"], config.scaling)}
    return {**params, "layers": layers}


def _merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scaling: float) -> jax.Array:
    """Adds scaling · a [layers, *in, rank] b [layers, rank, *out] to a kernel [layers, *in, *out]."""
    num_layers, rank = a.shape[0], a.shape[-1]
    fan_in = math.prod(a.shape[1:-1])
    low_rank = jnp.matmul(
        a.reshape(num_layers, fan_in, rank).astype(jnp.float32),
        b.reshape(num_layers, rank, -1).astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return (kernel.astype(jnp.float32) + scaling * low_rank.reshape(kernel.shape)).astype(kernel.dtype)
