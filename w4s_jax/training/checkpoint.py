"""Checkpoints: what training changes, with the caller's position in the run, in one atomic directory.

TrainState, position of the run → **checkpoints/step_00000012/** → the same on any mesh

Orbax writes each checkpoint into a temporary directory, behind the training that goes
on, and renames it when all of it is on the disk, so a kill leaves the last good one.
It does not notice a flipped byte: values come back wrong and unsaid. So every leaf is
saved with a 32-bit fingerprint, an integer sum over its bits, which is computed where the leaf lies
and does not depend on the sharding; what does not match is rejected, moved aside
as `*.rejected`, and the checkpoint before it is taken and said.

Frozen parameters are not saved; they are the checkpoint that training started from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import step as step_lib

from w4s_jax.errors import first_line, named_errors
from w4s_jax.policy.sharding import on_host
from w4s_jax.training.step import TrainState
from w4s_jax.types import CheckpointError

PyTree = Any
Json = dict[str, Any]

_STEP = re.compile(r"step_(\d{8})")
_LOG = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a restore gave back."""

    state: TrainState
    extra: Json
    """As it was given to `save`."""
    rejected: tuple[str, ...]
    """One line for each newer checkpoint that could not be read; empty when all is well."""


class _Rejected(NamedTuple):
    path: epath.Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


class _Read(NamedTuple):
    items: dict[str, PyTree]
    extra: Json
    rejected: tuple[_Rejected, ...]


class Checkpoints:
    """The checkpoints of one run; every process of a run calls every method.

    Example:
        >>> checkpoints = Checkpoints(f"{run_dir}/checkpoints")  # doctest: +SKIP
        >>> checkpoints.save(state, {"round": 1, "position": 40})  # doctest: +SKIP
        >>> checkpoints.wait()  # doctest: +SKIP
        >>> like = trainer.abstract_state._replace(frozen=state.frozen)  # doctest: +SKIP
        >>> state, extra, rejected = checkpoints.restore(like)  # doctest: +SKIP
    """

    def __init__(self, directory: str, *, keep: int = 2) -> None:
        """Names the directory; touches nothing.

        Args:
            directory: Absolute path or `gs://…`; made by the first save.
            keep: Newest checkpoints that stay; at least 2, so that there is one behind a damaged one.
        """
        self.directory = directory
        self._keep = max(2, keep)
        self._writing: tuple[epath.Path, ocp.CheckpointManager] | None = None
        self._lock = threading.RLock()  # a save may run in a thread while the run is stopped

    def steps(self) -> tuple[int, ...]:
        """Steps of the finished checkpoints, oldest first; whether they can be read shows in `restore`.

        Raises:
            CheckpointError: As `wait`.
        """
        self.wait()
        # Not by a manager: where there are several processes it wants them all to be here.
        folder = epath.Path(self.directory)
        found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()] if folder.exists() else []
        return tuple(sorted(int(match[1]) for match, path in found if match and step_lib.is_path_finalized(path)))

    def newest(self) -> str:
        """Path of the newest finished checkpoint; empty where there is none.

        Raises:
            CheckpointError: As `wait`.
        """
        steps = self.steps()
        return str(epath.Path(self.directory) / _name(steps[-1])) if steps else ""

    def save(self, state: TrainState, extra: Mapping[str, Any]) -> str:
        """Starts to write a checkpoint under the number of its updates; the oldest goes when it is whole.

        Returns when the arrays are copied, so that `state` may be donated; `wait` returns when they are on the disk.

        Args:
            state: Its `params`, `opt_state` and `step` are saved.
            extra: The caller's facts (round, position, …), as JSON.

        Returns:
            The path that it will have.

        Raises:
            CheckpointError: The disk is full, the path cannot be written, this step was already saved, or the save
                before this one failed.
        """
        with self._lock:
            return self._save(state, extra)

    def _save(self, state: TrainState, extra: Mapping[str, Any]) -> str:
        step, items = int(jax.device_get(state.step)), _items(state)
        path = epath.Path(self.directory) / _name(step)
        if step in self.steps():
            raise CheckpointError(f"{path} exists; a checkpoint is never written over: resume from it, or move it away")
        self._check_space(items)
        manifest = {"extra": dict(extra), "leaves": {name: _manifest(tree) for name, tree in items.items()}}
        args = {name: ocp.args.StandardSave(_flat(tree)) for name, tree in items.items()}
        with self._named(path):
            manager = self._manager(writes=True)
            self._writing = (path, manager)
            manager.save(step, args=ocp.args.Composite(manifest=ocp.args.JsonSave(manifest), **args))
        return str(path)

    def wait(self) -> None:
        """Returns when the last save is on the disk; at once where none is under way.

        Raises:
            CheckpointError: It could not be written; those before it are whole.
        """
        with self._lock:
            if self._writing is None:
                return
            path, manager = self._writing
            with self._named(path):
                manager.wait_until_finished()
                self._writing = None
                manager.close()

    def _named(self, path: epath.Path) -> contextlib.AbstractContextManager[None]:
        """Says which checkpoint could not be written, and sweeps away its half."""

        def failed(error: Exception) -> CheckpointError:
            self._writing = None
            self._drop_unfinished()
            return CheckpointError(
                f"{path} could not be written, the checkpoints before it are whole; free space or choose another "
                f"--run_dir: {_reason(error)}"
            )

        return named_errors(failed, OSError, ValueError)  # TensorStore says ENOSPC, EFBIG and EROFS by a ValueError

    def restore(self, like: TrainState, *, step: int | None = None) -> Restored:
        """Reads the newest checkpoint that is whole, onto the mesh of `like`.

        Args:
            like: `Trainer.abstract_state` (or a state) with the shapes and shardings to come; its `frozen` is
                handed through.
            step: This checkpoint and no other.

        Raises:
            CheckpointError: There is none, none can be read (each is named), or it is of another model or optimiser.
        """
        read = self._read(_items(like), step)
        self._set_aside(read.rejected)
        counted = read.items["optimizer"]
        state = TrainState(read.items["params"], like.frozen, counted["opt_state"], counted["step"])
        return Restored(state, read.extra, tuple(map(str, read.rejected)))

    def restore_params(self, like: dict[str, PyTree], *, step: int | None = None) -> tuple[dict[str, PyTree], Json]:
        """The trainable collections and the caller's facts alone, for sampling, scoring and export.

        Raises:
            CheckpointError: As `restore`.
        """
        read = self._read({"params": like}, step)
        return read.items["params"], read.extra

    def _read(self, like: Mapping[str, PyTree], step: int | None) -> _Read:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            there = f"it holds the steps {list(steps)}" if steps else "it holds none"
            raise CheckpointError(f"no checkpoint{'' if step is None else f' {step}'} in {self.directory}: {there}")
        rejected: list[_Rejected] = []
        for candidate in sorted(steps, reverse=True) if step is None else [step]:
            reader = _Unreadable()
            with reader:
                items, extra = self._read_one(like, candidate)
                return _Read(items, extra, tuple(rejected))
            rejected.append(_Rejected(epath.Path(self.directory) / _name(candidate), reader.reason))
            if jax.process_count() > 1:  # what one process alone could not read, the others are still reading
                raise CheckpointError(f"{rejected[-1]}; move it away and run the same command again")
            _LOG.warning("%s", rejected[-1])
        raise CheckpointError(
            "no checkpoint can be read; restore one from a backup or start anew: " + "; ".join(map(str, rejected))
        )

    def _read_one(self, like: Mapping[str, PyTree], step: int) -> tuple[dict[str, PyTree], Json]:
        with self._manager() as manager:
            found = manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))["manifest"]
            for name, tree in like.items():
                _check_same_model(found["leaves"][name], tree, f"{self.directory}/{_name(step)}")
            args = {name: ocp.args.StandardRestore(_flat(_abstract(tree))) for name, tree in like.items()}
            flat = manager.restore(step, args=ocp.args.Composite(**args))
        items = {name: _unflat(tree, flat[name]) for name, tree in like.items()}
        for name, tree in items.items():
            marks = _manifest(tree)
            damaged = [leaf for leaf, mark in found["leaves"][name].items() if marks[leaf] != mark]
            if damaged:
                raise ValueError(f"{len(damaged)} arrays differ from what was saved, first {name}/{damaged[0]}")
        return items, found["extra"]

    def _manager(self, *, writes: bool = False) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            step_prefix="step",
            step_format_fixed_length=8,
            preservation_policy=checkpoint_managers.LatestN(self._keep),
            enable_async_checkpointing=writes,  # copies, or on CPU refers to, all arrays before it returns
            cleanup_tmp_directories=writes,  # a reader must not sweep away what another process is writing
            create=writes,
            read_only=not writes,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _drop_unfinished(self) -> None:
        """What a failed save left behind would keep the disk full."""
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # else this would hide why the save failed
                for path in epath.Path(self.directory).glob("*.orbax-checkpoint-tmp"):
                    path.rmtree()

    def _set_aside(self, rejected: Sequence[_Rejected]) -> None:
        """Frees the names of rejected checkpoints, which training will save again; nothing is deleted."""
        for path, _ in rejected:
            names = (f"{path.name}.rejected{number or ''}" for number in itertools.count())
            path.rename(next(free for name in names if not (free := path.with_name(name)).exists()))

    def _check_space(self, items: Mapping[str, PyTree]) -> None:
        if "://" in self.directory:
            return
        os.makedirs(self.directory, exist_ok=True)
        need = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(items))
        free = shutil.disk_usage(self.directory).free
        if need > free:
            raise CheckpointError(
                f"{self.directory} has {free / 2**30:.2f} GiB free, a checkpoint takes {need / 2**30:.2f} GiB; "
                "free space or choose another --run_dir"
            )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error, limit=300)}"


class _Unreadable:
    """Keeps the reason why a checkpoint could not be read.

    Orbax says so by OSError, ValueError or KeyError, and for a damaged chunk by `Exception` itself, which is
    matched by its exact type: nothing else is held back, a `CheckpointError` of ours neither.
    """

    reason = ""

    def __enter__(self) -> _Unreadable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *exc_info: object) -> bool:
        if error is None or isinstance(error, CheckpointError):
            return False
        self.reason = _reason(error)
        return kind is Exception or isinstance(error, (OSError, ValueError, KeyError))


def param_digest(params: PyTree) -> str:
    """SHA-256 in hex over paths, dtypes, shapes and bytes of all leaves: equal iff equal to the bit."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_flat(params).items()):
        array = on_host(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _items(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.params, "optimizer": {"opt_state": state.opt_state, "step": state.step}}


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _flat(tree: PyTree) -> dict[str, Any]:
    """`{path: leaf}`; paths of optax's records survive, which Orbax would turn into plain dicts."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _unflat(like: PyTree, flat: Mapping[str, Any]) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(like), [flat[path] for path in _flat(like)])


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(_shape, tree)


def _manifest(tree: PyTree) -> dict[str, list[Any]]:
    """`{path: [dtype, shape, fingerprint]}`."""
    flat = _flat(tree)
    marks = jax.device_get(_fingerprints(flat))
    return {path: [str(leaf.dtype), list(leaf.shape), int(marks[path])] for path, leaf in flat.items()}


@jax.jit
def _fingerprints(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """uint32 of each leaf: Σ mix(bits, index) mod 2³², which no order of summing can change."""

    def mark(x: jax.Array) -> jax.Array:
        words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(x, words).astype(jnp.uint32)
        index = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        mixed = (bits ^ (index * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA77)
        return jnp.sum((mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE3D), dtype=jnp.uint32)

    return {path: mark(leaf) for path, leaf in flat.items()}


def _check_same_model(saved: Mapping[str, list[Any]], like: PyTree, path: str) -> None:
    want = {name: [str(x.dtype), list(x.shape)] for name, x in _flat(like).items()}
    have = {name: mark[:2] for name, mark in saved.items()}
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise CheckpointError(
                f"{path} is of another model or optimiser: {name} is {have.get(name, 'absent')} there, "
                f"{want.get(name, 'absent')} here; use the flags of the run that wrote it"
            )
