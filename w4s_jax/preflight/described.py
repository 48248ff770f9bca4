"""Devices that are not here: the compilers of TPUs and GPUs describe them, and compile for them.

name, how many → **tpus**, **gpus** → devices of a mesh → `jit(…).lower(…).compile()`

Nothing can be put on such a device or run there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh

from w4s_jax.types import InputError

_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the cloud's metadata server what this machine is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so nobody has to wait for one
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # some name, or libtpu complains; the topology is described apart from it
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What keeps libtpu from looking for a TPU."""

_NO_GPU = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver whose version could be checked
    "TF_CPP_MIN_LOG_LEVEL": "3",  # the plugin complains of the missing driver, and of programs that do not fit
}
"""What keeps the CUDA plugin from looking for a GPU."""

_JAX_SETS = {"TF_CPP_MIN_LOG_LEVEL": "1"}
"""What jax sets by itself: nobody's wish, unlike any other value."""
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""Modules, either of which compiles for GPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gpu:
    """What the compiler has to know of a GPU besides its memory; sizes in bytes.

    Source: CUDA C++ Programming Guide, technical specifications by compute capability; NVIDIA's data sheets.
    """

    kind: str
    """The driver's name of it."""
    capability: int
    """Major compute capability; the minor one is 0."""
    cores: int
    """Streaming multiprocessors."""
    clock_ghz: float
    cache: int
    """Level 2."""
    shared: int
    """Shared memory of a multiprocessor; a block may have 1 KiB less."""

    def to_proto_text(self, memory: int, bandwidth: int) -> str:
        """The text of XLA's `GpuTargetConfigProto`."""
        own_features = "feature_extension: ACCELERATED_FEATURES" if self.capability >= 9 else ""
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.kind}"
            dnn_version_info {{ major: 9 minor: 10 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {self.capability} {own_features} }}
              core_count: {self.cores}
              clock_rate_ghz: {self.clock_ghz}
              device_memory_size: {memory}
              memory_bandwidth: {bandwidth}
              l2_cache_size: {self.cache}
              shared_memory_per_core: {self.shared}
              shared_memory_per_block: {48 << 10}
              shared_memory_per_block_optin: {self.shared - 1024}
              threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048 fpus_per_core: 128
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
            }}
        """


_GPUS: Mapping[str, _Gpu] = MappingProxyType({
    "a100": _Gpu(
        kind="NVIDIA A100-SXM4-80GB", capability=8, cores=108, clock_ghz=1.41, cache=40 << 20, shared=164 << 10
    ),
    "h100": _Gpu(
        kind="NVIDIA H100 80GB HBM3", capability=9, cores=132, clock_ghz=1.98, cache=50 << 20, shared=228 << 10
    ),
    "h200": _Gpu(
        kind="NVIDIA H200", capability=9, cores=132, clock_ghz=1.98, cache=50 << 20, shared=228 << 10
    ),
    "b200": _Gpu(
        kind="NVIDIA B200", capability=10, cores=148, clock_ghz=1.97, cache=126 << 20, shared=228 << 10
    ),
})  # fmt: skip


def tpus(name: str, host: Sequence[int], num_slices: int) -> Sequence[jax.Device]:
    """The chips of TPU slices, described by libtpu.

    Args:
        name: E.g. `v5e:4x4`.
        host: Chips of one host along each dimension.
        num_slices: Equal slices.

    Raises:
        InputError: Libtpu is not installed.
        RuntimeError, ValueError: It does not know the shape.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"topology={name} needs libtpu, which compiles for TPUs on any Linux machine; pip install libtpu (about "
            "300 MB), take .venv-aot of `make aot`, or leave --topology out for the devices of this machine"
        )
    bounds: Any = (*host, 1)[:3]
    return _described(
        _NO_TPU,
        "tpu",
        topology_name=name,
        chip_config_name="default",
        chips_per_host_bounds=bounds,
        num_slices=num_slices,
    )


def gpus(name: str, per_host: int, hosts: int, *, memory: float, bandwidth: float) -> Sequence[jax.Device]:
    """The GPUs of equal hosts, described by jax's CUDA plugin.

    Args:
        name: A100, h100, h200 or b200.
        per_host: Of one host.
        hosts: With as many each.
        memory: Bytes of one.
        bandwidth: Of its memory, bytes a second.

    Raises:
        InputError: The plugin is not installed.
    """
    if not any(map(importlib.util.find_spec, CUDA_PLUGINS)):
        raise InputError(
            f"topology={name}:{per_host} needs jax's CUDA plugin, which compiles for GPUs on any Linux machine; "
            "pip install 'jax[cuda13]' (about 4 GB), take .venv-aot of `make aot`, or leave --topology out for the "
            "devices of this machine"
        )
    target = _GPUS[name].to_proto_text(int(memory), int(bandwidth))
    return _described(_NO_GPU, "cuda", topology_name=name, topology=f"1x{hosts}x{per_host}", target_config=target)


def compiling_for(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """Stands around the lowering of a program for a mesh: jax's Triton asks the context which GPU it is for."""
    gpu = mesh.devices.flat[0].platform == "gpu"
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if gpu else contextlib.nullcontext()


def _described(environment: Mapping[str, str], platform: str, **what: Any) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    for name, value in environment.items():
        if os.environ.get(name) in (None, _JAX_SETS.get(name)):
            os.environ[name] = value
    devices: Sequence[jax.Device] = topologies.get_topology_desc(platform=platform, **what).devices
    return devices
