"""Where arrays live: one table from logical axes to the axes of the mesh.

The logical axes of a parameter stand where it is declared (`parameters`).

`--mesh=data=1,fsdp=4,tensor=2` → **Mesh** → shardings of params, adapters, optimiser state, batches

`data` replicates the model and splits the batch; `fsdp` splits both; `tensor` splits
heads, feed-forward and vocabulary. The partitioner derives all communication from
the placements here (Xu et al., arXiv 2105.04663).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from w4s_jax.policy.attention.types import TreeAttention as TreeAttention
from w4s_jax.policy.attention.types import Window
from w4s_jax.policy.parameters import LOGICAL_AXES
from w4s_jax.types import InputError

PyTree = Any

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes that split the rows of a batch."""
VOCAB_AXES = ("fsdp", "tensor")
"""Mesh axes that split the vocabulary where logits are computed."""

RULES: Mapping[str, str | None] = MappingProxyType({
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "rank": None,
})  # fmt: skip
"""The table: logical axis → mesh axis, or None for replicated."""


def make_mesh(spec: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh that a flag describes.

    Args:
        spec: `data=1,fsdp=4,tensor=2`; an axis that is left out has size 1.
        devices: What to lay out; all devices of all processes where None.

    Raises:
        InputError: An unknown or repeated axis, a size below 1, a product that is not the number of devices, or slices
            that do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict.fromkeys(MESH_AXES, 1) | _parse_mesh(spec)
    if math.prod(sizes.values()) != len(devices):
        raise InputError(
            f"mesh={spec!r} asks for {math.prod(sizes.values())} devices, but {len(devices)} are present; "
            "make the product of the axes equal to that"
        )
    grid = _grid(spec, tuple(sizes.values()), devices)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def host_mesh(devices: Sequence[jax.Device], kv_heads: int) -> Mesh:
    """Where one process samples: heads over its devices as far as they divide, prompts over the rest.

    A decode step reads every weight for a handful of tokens, so weights must not travel: none lies on `fsdp`.

    Args:
        devices: Its own.
        kv_heads: K of the model.
    """
    tensor = math.gcd(len(devices), kv_heads)
    # By number, not by wires: `local_copy` needs the same order in every process.
    grid = np.array(sorted(devices, key=lambda device: device.id)).reshape(-1, 1, tensor)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _grid(spec: str, sizes: tuple[int, ...], devices: Sequence[jax.Device]) -> Any:
    """Devices by their wires; several slices of a pod lie along `data`, which alone may cross their slow network."""
    slices = num_slices(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, *others = sizes
    if data % slices:
        raise InputError(
            f"mesh={spec!r} has data={data} over {slices} slices; make data a multiple of {slices}, as gradients alone "
            "should cross the network between slices"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *others), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def _parse_mesh(spec: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        axis, _, size = part.partition("=")
        if axis not in MESH_AXES:
            raise InputError(f"mesh={spec!r} has the unknown axis {axis!r}; allowed: {', '.join(MESH_AXES)}")
        if axis in sizes:
            raise InputError(f"mesh={spec!r} names the axis {axis!r} twice; name it once")
        if not size.isdecimal() or int(size) < 1:
            raise InputError(f"mesh={spec!r} has {part!r}; a size is a positive whole number, as in {axis}=2")
        sizes[axis] = int(size)
    return sizes


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Placement of every leaf of a params, adapter or optimiser-state pytree.

    A dim whose mesh axis does not divide it is replicated, and so is every leaf that
    the table does not know (step counts, factored moments); `fallbacks` names them.

    Args:
        tree: Arrays or `jax.ShapeDtypeStruct`s.
        mesh: From `make_mesh`.

    Returns:
        A pytree of `NamedSharding`s of the same structure.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: NamedSharding(mesh, _place(path, leaf, mesh)[0]), tree)


def fallbacks(tree: PyTree, mesh: Mesh) -> tuple[str, ...]:
    """One line for each dim, or leaf, that `shardings` replicates although it meant to split it; for the log."""
    lines: list[str] = []
    jax.tree_util.tree_map_with_path(lambda path, leaf: lines.extend(_place(path, leaf, mesh)[1]), tree)
    return tuple(lines)


def num_slices(devices: Iterable[jax.Device]) -> int:
    """Slices of a TPU pod that devices belong to; 1 on other platforms.

    GPUs have a slice index, too: their host, whose network NCCL handles for any axis.
    """
    return len({getattr(device, "slice_index", 0) if device.platform == "tpu" else 0 for device in devices})


def on_host(leaf: Any) -> np.ndarray:
    """The whole of an array, in every process; all of them call this."""
    if isinstance(leaf, Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def local_copy(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of a tree that lies on the devices of all processes, whole on the devices of each of them.

    Every process calls this at the same time, as the parts travel between them.

    Args:
        tree: Arrays on a mesh of all devices.
        mesh: Of this process's own devices, from `host_mesh`; that of every process has the same axes.
    """
    everywhere = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(everywhere).reshape(jax.process_count(), *mesh.devices.shape)
    assert (grid[jax.process_index()] == mesh.devices).all(), "shards would be taken for each other's"
    repeated = Mesh(grid, ("process", *MESH_AXES), axis_types=(AxisType.Auto,) * grid.ndim)

    def one(leaf: Array, here: NamedSharding) -> Array:
        copied = jax.device_put(leaf, NamedSharding(repeated, here.spec), may_alias=False)
        shards = {shard.device: shard.data for shard in copied.addressable_shards}
        placed = [shards[device] for device in here.addressable_devices_indices_map(leaf.shape)]
        return jax.make_array_from_single_device_arrays(leaf.shape, here, placed)

    copied: PyTree = jax.tree.map(one, tree, shardings(tree, mesh))
    return copied


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over (data, fsdp); all further dims whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: Array, mesh: Mesh | None, *axes: str | tuple[str, ...] | None) -> Array:
    """Holds the leading dims of an activation to mesh axes.

    Without a mesh a no-op; a dim that its axes do not divide is left whole.

    Args:
        x: An activation inside `jit`.
        mesh: From `make_mesh`, or None.
        *axes: One entry a dim: a mesh axis, several, or None.
    """
    if mesh is None:
        return x
    spec = (axis if x.shape[dim] % divided(mesh, axis) == 0 else None for dim, axis in enumerate(axes))
    held: Array = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))
    return held


def by_shard(attention: TreeAttention, mesh: Mesh, kv_heads: int, *, split_rows: bool = True) -> TreeAttention:
    """An attention that runs on each device's own rows and heads; loops that depend on the data need no partitioner.

    Args:
        attention: Of any batch and any whole number of groups.
        mesh: From `make_mesh`.
        kv_heads: K; where `tensor` does not divide it, the heads stay whole.
        split_rows: Whether the rows are those of a batch; a single prompt is on every device.
    """
    if mesh.size == 1:
        return attention
    heads = "tensor" if kv_heads % mesh.shape["tensor"] == 0 else None
    batch = BATCH_AXES if split_rows else None
    rows, arrays = PartitionSpec(batch), PartitionSpec(batch, None, heads)

    def sharded(q: Array, k: Array, v: Array, expiry: Array, *window: Window) -> Array:
        specs = (arrays, arrays, arrays, rows, *(Window(rows, PartitionSpec()) for _ in window))  # type: ignore[arg-type]
        mapped = jax.shard_map(attention, mesh=mesh, in_specs=specs, out_specs=arrays, check_vma=False)
        out: Array = mapped(q, k, v, expiry, *window)
        return out

    return sharded


def divided(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
    """Into how many parts a mesh axis, or several, split a dim."""
    names = (axis,) if isinstance(axis, str) else axis or ()
    return math.prod(mesh.shape[name] for name in names)


def _place(path: tuple[Any, ...], leaf: Any, mesh: Mesh) -> tuple[PartitionSpec, list[str]]:
    name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)
    axes = _logical_axes(name)
    if axes is None or len(axes) != len(leaf.shape):
        # A scalar has nothing to split; anything larger is worth a line.
        return PartitionSpec(), [f"{name} {leaf.shape}: not in the table, replicated"] if leaf.shape else []
    spec: list[str | None] = []
    lines: list[str] = []
    for logical, size in zip(axes, leaf.shape, strict=True):
        axis = RULES[logical]
        fits = axis is None or size % mesh.shape[axis] == 0
        spec.append(axis if fits else None)
        if not fits:
            lines.append(f"{name} {leaf.shape}: {logical}={size} is not a multiple of {axis}={mesh.shape[axis]}")
    return PartitionSpec(*spec), lines


def _logical_axes(name: str) -> tuple[str, ...] | None:
    parts = name.split("/")
    return LOGICAL_AXES.get("/".join(parts[-2:])) or LOGICAL_AXES.get(parts[-1])
