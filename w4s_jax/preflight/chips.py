"""The chips that a step can be compiled for without having them, and how they are wired.

`--topology=v5e:4x4 | h100:8` → **Topology** (devices described by the compiler, Chip) → mesh → compile, roofline

Numbers are published ones, per chip, read in November 2026. TPUs: docs.cloud.google.com/tpu/docs/v5e,
…/v5p, …/v6e: peak bf16 FLOP/s, HBM bandwidth, inter-chip bandwidth (published as the sum over
ports and both directions) and data-center network; what of the HBM a program may use is what
the compiler of libtpu says when it runs out. GPUs: NVIDIA's data sheets of A100 80GB SXM, H100
SXM, H200 SXM and DGX B200: dense bf16 FLOP/s, memory bandwidth, NVLink (published for both
directions) and one network port a GPU, as in a DGX; memory is what nvidia-smi reports.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax

from w4s_jax.errors import first_line
from w4s_jax.preflight import described
from w4s_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; bytes and seconds.

    Example:
        >>> CHIPS["v5e"].links * CHIPS["v5e"].link_bandwidth * 2 / 1e9  # both directions: the published 400 GB/s
        400.0
    """

    name: str
    hbm_bytes: float
    """What a program may use; of a GPU, all of it: jax takes a share (`usable`)."""
    matrix_flops: float
    """Peak FLOP/s of bf16 matrix products."""
    hbm_bandwidth: float
    """Bytes a second."""
    gpu: bool = False
    """Whether its host's chips are joined by a switch (NVLink), not in a torus."""
    links: int = 0
    """Ports of the inter-chip interconnect of a TPU: 2 for each dimension of its torus."""
    link_bandwidth: float = math.inf
    """Bytes a second of one port in one direction; of a GPU, of all its links."""
    wraps_at: int = 1
    """Chips along a dimension from which it closes to a ring; a shorter one is a line."""
    network_bandwidth: float = math.inf
    """Bytes a second to other slices, or GPU hosts: a chip's share of its host's."""

    @property
    def usable(self) -> float:
        """Bytes that jax takes of it: of a GPU 75 %, or XLA_CLIENT_MEM_FRACTION of it."""
        said = next(filter(None, map(os.environ.get, _MEMORY_SHARE)), "0.75")
        try:
            return self.hbm_bytes * (float(said) if self.gpu else 1.0)
        except ValueError:
            raise InputError(f"{_MEMORY_SHARE[0]}={said!r} is no number; give a share of a GPU, such as 0.92") from None

    @property
    def dimensions(self) -> int:
        """Of the shape of a slice; the GPUs of a host are counted."""
        return 1 if self.gpu else self.links // 2


CHIPS: Mapping[str, Chip] = MappingProxyType({
    "v5e": Chip(
        name="v5e", hbm_bytes=15.75 * 2**30, matrix_flops=197e12, hbm_bandwidth=819e9,
        links=4, link_bandwidth=50e9, wraps_at=16, network_bandwidth=2 * 100e9 / 8 / 8,
    ),
    "v5p": Chip(
        name="v5p", hbm_bytes=95.74 * 2**30, matrix_flops=459e12, hbm_bandwidth=2765e9,
        links=6, link_bandwidth=100e9, wraps_at=4, network_bandwidth=50e9 / 8,
    ),
    "v6e": Chip(
        name="v6e", hbm_bytes=31.25 * 2**30, matrix_flops=918e12, hbm_bandwidth=1600e9,
        links=4, link_bandwidth=100e9, wraps_at=16, network_bandwidth=4 * 200e9 / 8 / 8,
    ),
    "a100": Chip(
        name="a100", gpu=True, hbm_bytes=81_920 * 2**20, matrix_flops=312e12, hbm_bandwidth=2039e9,
        link_bandwidth=300e9, network_bandwidth=200e9 / 8,
    ),
    "h100": Chip(
        name="h100", gpu=True, hbm_bytes=81_559 * 2**20, matrix_flops=989e12, hbm_bandwidth=3350e9,
        link_bandwidth=450e9, network_bandwidth=400e9 / 8,
    ),
    "h200": Chip(
        name="h200", gpu=True, hbm_bytes=143_771 * 2**20, matrix_flops=989e12, hbm_bandwidth=4800e9,
        link_bandwidth=450e9, network_bandwidth=400e9 / 8,
    ),
    "b200": Chip(
        name="b200", gpu=True, hbm_bytes=183_359 * 2**20, matrix_flops=2250e12, hbm_bandwidth=8000e9,
        link_bandwidth=900e9, network_bandwidth=400e9 / 8,
    ),
})  # fmt: skip
_MEMORY_SHARE = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_HOST_GPUS = 8

SLICES: Mapping[str, str] = MappingProxyType({
    "v5e-4": "2x2", "v5e-8": "2x4", "v5e-16": "4x4", "v5e-32": "4x8", "v5e-64": "8x8", "v5e-128": "8x16",
    "v5e-256": "16x16",
    "v5p-8": "2x2x1", "v5p-16": "2x2x2", "v5p-32": "2x2x4", "v5p-64": "2x4x4", "v5p-128": "4x4x4", "v5p-256": "4x4x8",
    "v5p-512": "4x8x8",
    "v6e-4": "2x2", "v6e-8": "2x4", "v6e-16": "4x4", "v6e-32": "4x8", "v6e-64": "8x8", "v6e-128": "8x16",
    "v6e-256": "16x16",
})  # fmt: skip
"""Cloud names of slices → shapes; those of v5p count cores, two a chip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Some slices of equal chips.

    Example:
        >>> Topology.parse("v5e-16").shape, Topology.parse("h100:8").num_chips
        ((4, 4), 8)
    """

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each dimension of a slice; the number of a host's GPUs."""
    num_slices: int = 1
    """Of GPUs: hosts."""

    @classmethod
    def parse(cls, spec: str, num_slices: int = 1) -> Topology:
        """Reads `v5e:4x4`, `h100:8`, `h100` (one), or a cloud name such as `v5e-16`.

        Raises:
            InputError: An unknown chip or shape, or no slice.
        """
        full = spec.replace("-", ":", 1) if spec not in SLICES else f"{spec.partition('-')[0]}:{SLICES[spec]}"
        full += ":1" if full in CHIPS and CHIPS[full].gpu else ""
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", full)
        chip = CHIPS.get(match[1]) if match else None
        shape = tuple(map(int, match[2].split("x"))) if match else ()
        known = chip is not None and len(shape) == chip.dimensions and min(shape) >= 1
        if chip is None or not known or (chip.gpu and shape[0] > _HOST_GPUS):
            raise InputError(
                f"topology={spec!r} is unknown; give {', '.join(CHIPS)} with a shape, e.g. v5e:4x4 or v5p:2x2x2, with "
                f"the GPUs of a host, e.g. h100:8 (at most {_HOST_GPUS}; more hosts by --num_slices), or a cloud name: "
                f"{', '.join(SLICES)}"
            )
        if num_slices < 1:
            raise InputError(f"num_slices={num_slices} is not allowed; give at least 1")
        return cls(chip=chip, shape=shape, num_slices=num_slices)

    @property
    def name(self) -> str:
        """E.g. `v5e:4x4`, or `2 × v5e:4x4`."""
        one = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return one if self.num_slices == 1 else f"{self.num_slices} × {one}"

    @property
    def num_chips(self) -> int:
        """Of all slices."""
        return math.prod(self.shape) * self.num_slices

    @property
    def host(self) -> Topology:
        """The chips of one host, which its process samples on: its GPUs; four TPUs, or all of eight of v5e and v6e."""
        if self.chip.gpu or (self.chip.links == 4 and math.prod(self.shape) == 8):
            return Topology(chip=self.chip, shape=self.shape)
        sides = tuple(min(side, limit) for side, limit in zip(self.shape, (2, 2, 1), strict=False))
        return Topology(chip=self.chip, shape=sides)

    def devices(self) -> Sequence[jax.Device]:
        """Described devices, for compiling alone; the compiler describes them, no chip is needed.

        Raises:
            InputError: The compiler is not installed, or does not know the shape.
        """
        if self.chip.gpu:
            memory, bandwidth = self.chip.hbm_bytes, self.chip.hbm_bandwidth
            return described.gpus(self.chip.name, self.shape[0], self.num_slices, memory=memory, bandwidth=bandwidth)
        try:
            return described.tpus(
                f"{self.chip.name}:{'x'.join(map(str, self.shape))}", self.host.shape, self.num_slices
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"topology={self.name} is refused by libtpu ({first_line(error)}); take one of "
                f"{', '.join(SLICES)}, if the shape is the cause"
            ) from None
