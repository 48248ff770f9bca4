"""The TPU chips that a step can be compiled for, and how they are wired.

`--topology=v5e:4x4` → **Topology** (devices of a described slice, Chip) → mesh → compile, roofline

Numbers are Google's published ones, per chip, read in November 2026 from
docs.cloud.google.com/tpu/docs/v5e, …/v5p, …/v6e: peak bf16 FLOP/s, HBM bandwidth, inter-chip
bandwidth (published as the sum over ports and both directions) and data-center network.
What of the HBM a program may use is what the compiler of libtpu says when it runs out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

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
    """What a program may use."""
    matrix_flops: float
    """Peak FLOP/s of bf16 matrix products."""
    hbm_bandwidth: float
    """Bytes a second."""
    links: int = 0
    """Ports of the inter-chip interconnect: 2 for each dimension of its torus."""
    link_bandwidth: float = math.inf
    """Bytes a second of one port in one direction."""
    wraps_at: int = 1
    """Chips along a dimension from which it closes to a ring; a shorter one is a line."""
    network_bandwidth: float = math.inf
    """Bytes a second to other slices, a chip's share of its host's."""


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
})  # fmt: skip

SLICES: Mapping[str, str] = MappingProxyType({
    "v5e-4": "2x2", "v5e-8": "2x4", "v5e-16": "4x4", "v5e-32": "4x8", "v5e-64": "8x8", "v5e-128": "8x16",
    "v5e-256": "16x16",
    "v5p-8": "2x2x1", "v5p-16": "2x2x2", "v5p-32": "2x2x4", "v5p-64": "2x4x4", "v5p-128": "4x4x4", "v5p-256": "4x4x8",
    "v5p-512": "4x8x8",
    "v6e-4": "2x2", "v6e-8": "2x4", "v6e-16": "4x4", "v6e-32": "4x8", "v6e-64": "8x8", "v6e-128": "8x16",
    "v6e-256": "16x16",
})  # fmt: skip
"""Cloud names of slices → shapes; those of v5p count cores, two a chip."""


_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the cloud's metadata server what this machine is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so nobody has to wait for one
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # some name, or libtpu complains; the topology is described apart from it
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What keeps libtpu from looking for a TPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Some slices of equal chips.

    Example:
        >>> Topology.parse("v5e-16").shape
        (4, 4)
    """

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each dimension of a slice."""
    num_slices: int = 1

    @classmethod
    def parse(cls, spec: str, num_slices: int = 1) -> Topology:
        """Reads `v5e:4x4`, or a cloud name such as `v5e-16`.

        Raises:
            InputError: an unknown chip or shape, or no slice.
        """
        full = spec.replace("-", ":", 1) if spec not in SLICES else f"{spec.partition('-')[0]}:{SLICES[spec]}"
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", full)
        chip = CHIPS.get(match[1]) if match else None
        shape = tuple(map(int, match[2].split("x"))) if match else ()
        if chip is None or len(shape) != chip.links // 2 or min(shape) < 1:
            raise InputError(
                f"topology={spec!r} is unknown; give {', '.join(CHIPS)} with a shape, e.g. v5e:4x4 or v5p:2x2x2, or a "
                f"cloud name: {', '.join(SLICES)}"
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
        """The chips of one host, which its process samples on: four of them, or all of eight of v5e and v6e."""
        if self.chip.links == 4 and math.prod(self.shape) == 8:
            return Topology(chip=self.chip, shape=self.shape)
        sides = tuple(min(side, limit) for side, limit in zip(self.shape, (2, 2, 1), strict=False))
        return Topology(chip=self.chip, shape=sides)

    def devices(self) -> Sequence[jax.Device]:
        """Described devices, for compiling alone; libtpu describes them, no TPU is needed.

        Raises:
            InputError: libtpu is not installed, or does not know the shape.
        """
        if importlib.util.find_spec("libtpu") is None:
            raise InputError(
                f"topology={self.name} needs libtpu, which compiles for TPUs on any Linux machine; pip install libtpu "
                "(about 300 MB), or leave --topology out for the devices of this machine"
            )
        from jax.experimental import topologies

        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
        bounds: Any = (*self.host.shape, 1)[:3]
        try:
            found = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.chip.name}:{'x'.join(map(str, self.shape))}",
                chip_config_name="default",
                chips_per_host_bounds=bounds,
                num_slices=self.num_slices,
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"topology={self.name} is refused by libtpu ({str(error).splitlines()[0][:200]}); take one of "
                f"{', '.join(SLICES)}, if the shape is the cause"
            ) from None
        devices: Sequence[jax.Device] = found.devices
        return devices
