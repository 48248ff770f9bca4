"""What a training step has to do, counted from the model, and how long a chip needs at the very least.

ModelConfig, rows × tokens, Traffic → **Work** → with a Chip → **Estimate** (three terms, the longest one counts)

A roofline (Williams, Waterman & Patterson, CACM 52(4), 2009): the time is that of the
busiest of matrix unit, HBM and interconnect, with perfect overlap and each at its
published rate. No program is faster; a real one is slower, and by how much has to be
measured. The compiler's own cost analysis counts a loop's body once and is not used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
from jax.sharding import Mesh

from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.sharding import BATCH_AXES, divided
from w4s_jax.preflight.chips import Chip, Topology
from w4s_jax.preflight.collectives import Traffic
from w4s_jax.training.tree import Tree

LAYERS_AGAIN = ("full", "attention")
"""Keys of `transformer.REMAT` under which the linear maps are computed again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The work that a gradient is asked for.

    Example:
        >>> Shape.full_rows(rows=2, row_length=8).pairs
        72
    """

    tokens: int
    """Computed, of all rows."""
    targets: int
    """Tokens that carry loss."""
    pairs: int
    """Visible (query, key) pairs, a query with itself included."""

    @classmethod
    def of(cls, trees: Iterable[Tree]) -> Shape:
        """What a gradient of trees is asked for; queries from k to expiry[k] − 1 see key k."""
        every = list(trees)
        return cls(
            tokens=sum(map(len, every)),
            targets=sum(len(tree.target_token) for tree in every),
            pairs=sum(int(np.sum(tree.expiry - np.arange(len(tree)))) for tree in every),
        )

    @classmethod
    def full_rows(cls, rows: int, row_length: int) -> Shape:
        """Rows of plain text with every token a target: no token tree of that length costs more."""
        tokens = rows * row_length
        return cls(tokens=tokens, targets=tokens, pairs=tokens * (row_length + 1) // 2)


def layer_parameters(config: ModelConfig) -> int:
    """Parameters of the linear maps of one layer."""
    c = config
    return c.embed_dim * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 3 * c.embed_dim * c.mlp_dim


def gradient_flops(
    config: ModelConfig, shape: Shape, *, frozen_base: bool = False, remat: str | None = None, reference: bool = False
) -> int:
    """FLOPs of one gradient: two a multiplication, forward once, backward twice for every matrix product.

    Attention that does not keep its scores computes them again in the backward pass: five products there, four of them
    the model's own.

    Args:
        config: The model.
        shape: What it is asked for.
        frozen_base: LoRA: no gradient of the base is formed (the adapters' own work is below a percent and left out).
        remat: A key of `transformer.REMAT`: counts what is computed again, logits too; None: nothing is.
        reference: Whether the loss compares with the frozen start, which is run forward, too.
    """
    passes = (2 if frozen_base else 3) + reference
    layers = 2 * (passes + (remat in LAYERS_AGAIN)) * layer_parameters(config) * shape.tokens
    again = 0 if remat is None else 2 + 4 * (remat == "full")
    attention = (4 * (1 + reference) + 8 + again) * config.num_heads * config.head_dim * shape.pairs
    logits = 2 * (passes + (remat is not None)) * config.embed_dim * config.vocab_size * shape.targets
    return config.num_layers * (layers + attention) + logits


def hbm_traffic(config: ModelConfig, shape: Shape, mesh: Mesh, *, passes: int, state_bytes: float) -> float:
    """Bytes that one chip moves between HBM and its matrix unit in a step.

    Every matrix product reads both operands and writes its result once, in two bytes; the update reads and writes
    the state once.

    Args:
        config: The model.
        shape: Of the whole mesh.
        mesh: Rows are split over `data` and `fsdp`, widths over `tensor`.
        passes: Products for each linear map: forward, recomputed, two backward.
        state_bytes: Parameters, moments and gradient of one chip.
    """
    c, split = config, mesh.shape["tensor"]
    tokens: float = shape.tokens / divided(mesh, BATCH_AXES)
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    maps = [(c.embed_dim, q), (c.embed_dim, kv), (c.embed_dim, kv), (c.embed_dim, q)]
    maps += [(c.embed_dim, c.mlp_dim)] * 3  # whole width, split width; the way back is as long
    layer: float = sum(tokens * (whole + part / split) + whole * part / split for whole, part in maps)
    return 2 * passes * c.num_layers * layer + 2 * state_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of a step on one chip, by what it waits for."""

    matrix_seconds: float
    hbm_seconds: float
    network_seconds: Mapping[str, float]
    """By mesh axes, joined by `+`; one after another."""
    model_flops: float
    """Of one chip, nothing recomputed."""
    peak_flops: float
    """Of one chip, a second."""

    @property
    def terms(self) -> dict[str, float]:
        """The three terms."""
        return {
            "matrix": self.matrix_seconds,
            "hbm": self.hbm_seconds,
            "network": sum(self.network_seconds.values()),
        }

    @property
    def seconds(self) -> float:
        """The longest term: all three at once, at their peaks."""
        return max(self.terms.values())

    @property
    def serial_seconds(self) -> float:
        """Their sum: nothing overlaps."""
        return sum(self.terms.values())

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation at `seconds` (Chowdhery et al., arXiv 2204.02311, appendix B)."""
        return self.model_flops / (self.seconds * self.peak_flops)


def estimate(
    chip: Chip,
    *,
    chips: int,
    executed_flops: float,
    model_flops: float,
    hbm_bytes: float,
    traffic: Traffic,
    bandwidth: Mapping[str, float],
) -> Estimate:
    """Puts work and chip together.

    Args:
        chip: What it runs on.
        chips: Over which the FLOPs are spread evenly.
        executed_flops: Of the whole mesh, with what is recomputed.
        model_flops: Of the whole mesh.
        hbm_bytes: Of one chip.
        traffic: What one chip sends.
        bandwidth: Of each single mesh axis, from `axis_bandwidth`; several axes together are as fast as the slowest.
    """
    network: dict[str, float] = {}
    for (_, axes), sent in traffic.bytes.items():
        slowest = min((bandwidth[axis] for axis in axes.split("+") if axis), default=math.inf)
        network[axes] = network.get(axes, 0.0) + sent / slowest
    return Estimate(
        matrix_seconds=executed_flops / chips / chip.matrix_flops,
        hbm_seconds=hbm_bytes / chip.hbm_bandwidth,
        network_seconds=network,
        model_flops=model_flops / chips,
        peak_flops=chip.matrix_flops,
    )


def axis_bandwidth(topology: Topology, mesh: Mesh) -> dict[str, float]:
    """Bytes a second that a chip can send along each mesh axis.

    The slices are wired by the data-center network, along `data`. Within a slice, each dimension of the torus has a
    link either way where it closes to a ring, and half of that where it is a line; an axis gets the share of the
    dimensions that its size takes of the slice (in powers of two). GPUs of a host are joined by a switch: an axis has
    all of a GPU's links where it stays within the host, and its network port where it does not.
    """
    chip = topology.chip
    found: dict[str, float] = {}
    if chip.gpu:
        reached = 1
        for axis, size in reversed(mesh.shape.items()):
            reached *= size
            wire = chip.link_bandwidth if reached <= math.prod(topology.shape) else chip.network_bandwidth
            found[axis] = wire if size > 1 else math.inf
        return found
    dims = [side for side in topology.shape if side > 1]
    whole = sum(2 * chip.link_bandwidth / (1 if side >= chip.wraps_at else 2) for side in dims)
    within = math.log2(max(2, math.prod(dims)))
    for axis, size in mesh.shape.items():
        if axis == "data" and topology.num_slices > 1:
            found[axis] = chip.network_bandwidth
        else:
            found[axis] = whole * math.log2(size) / within if size > 1 else math.inf
    return found
