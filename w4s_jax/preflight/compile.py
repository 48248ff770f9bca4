"""Does a run fit its chips, and what would a step take? Answered by the compiler, without the chips.

Trainer, rows × tokens → compile ahead of time → **Compiled** (memory by kind, traffic) → plan

The very programs of a run are compiled: the gradient of a micro-batch, the update, and the
decode step of sampling. Memory is the compiler's; `largest_rows` compiles twice, takes
memory as affine in the rows of a chip, and confirms the largest number by a third compile.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w4s_jax.policy import decode, sharding
from w4s_jax.policy.generate import GeneratorConfig, idle_state, in_compute_dtype
from w4s_jax.policy.transformer import Transformer, param_shapes
from w4s_jax.preflight.collectives import Traffic, collectives
from w4s_jax.preflight.described import compiling_for
from w4s_jax.training.step import Trainer
from w4s_jax.types import W4sError

PyTree = Any


class DoesNotFitError(W4sError, MemoryError):
    """The compiler ran out of the chip's memory."""

    def __init__(self, what: str, used: float) -> None:
        """Names the program and the bytes a chip would need for it alone; NaN where the compiler does not say."""
        size = "more memory" if math.isnan(used) else f"{used / 2**30:.2f} GiB a chip, more"
        super().__init__(f"{what} needs {size} than a chip has")
        self.used = used


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip in a run, by kind."""

    parameters: int
    """Those that learn and the frozen base."""
    optimizer: int
    """Moments and counters."""
    gradients: int
    """Their float32 sum over micro-batches."""
    activations: int
    """Whatever the larger of gradient and update program holds besides its arguments."""
    sampling: int = 0
    """The copy of the weights that samples, its cache and its step's own."""
    new_weights: int = 0
    """The next copy of those weights, which lies beside the old one when a round begins."""

    @property
    def total(self) -> int:
        """The most at once: sampling goes on while a run trains, and a round begins when nothing else is held."""
        kept = self.parameters + self.optimizer + self.sampling
        return kept + max(self.gradients + self.activations, self.new_weights)


class Compiled(NamedTuple):
    """A training step for one micro-batch."""

    memory: Memory
    traffic: Traffic
    """Of the gradient and the update together."""
    seconds: float
    """That compiling took."""


class Sampler(NamedTuple):
    """The decode step."""

    memory: int
    """Bytes of a chip: weights, state and the step's own."""
    weights: int
    """Of these, the weights."""
    seconds: float


def compile_step(trainer: Trainer, rows: int, row_length: int) -> Compiled:
    """Compiles the gradient of a micro-batch and the update.

    Args:
        trainer: On a mesh of present or described devices.
        rows: Of the micro-batch, over the whole mesh.
        row_length: Tokens of a row.

    Raises:
        DoesNotFitError: A program alone needs more than a chip has.
    """
    begun = time.perf_counter()
    state, grads = trainer.abstract_state, trainer.abstract_grads
    batch = trainer.abstract_batch(rows, row_length)
    with compiling_for(trainer.mesh):
        gradient = compiled(
            "the gradient", lambda: trainer.accumulate_jit.lower(state.params, state.frozen, grads, batch).compile()
        )
        update = compiled("the update", lambda: trainer.lower_update().compile())
    traffic = _added(*(collectives(program.as_text(), trainer.mesh) for program in (gradient, update)))
    traffic = _between_slices(traffic, trainer.mesh, per_chip(grads))
    memory = Memory(
        parameters=per_chip((state.params, state.frozen)),
        optimizer=per_chip((state.opt_state, state.step)),
        gradients=per_chip(grads),
        activations=max(own_bytes(program, trainer.mesh) for program in (gradient, update)),
    )
    return Compiled(memory, traffic, time.perf_counter() - begun)


def compile_sampler(model: Transformer, config: GeneratorConfig, mesh: Mesh) -> Sampler:
    """Compiles the decode step of sampling.

    Args:
        model: The decoder.
        config: Static shapes.
        mesh: Of the devices that one process samples on.

    Raises:
        DoesNotFitError: It needs more than a chip has.
    """
    begun, block = time.perf_counter(), config.block_on(mesh.devices.flat[0].platform)
    model = model.clone(mesh=mesh, remat="none")
    shapes = param_shapes(model.config, model.param_dtype, model.lora)
    weights = jax.eval_shape(lambda tree: in_compute_dtype(tree, model.compute_dtype), shapes)
    weights = _laid(weights, sharding.shardings(weights, mesh))
    state = jax.eval_shape(idle_state(model, config, block))
    state = _laid(state, decode.state_shardings(state, mesh))
    stop = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=sharding.replicated(mesh))
    with compiling_for(mesh):
        program = compiled(
            "the decode step",
            lambda: decode.decode_chunk.lower(
                model, weights, state, stop, np.int32(config.chunk), np.bool_(False), block=block
            ).compile(),
        )
    memory = per_chip((weights, state)) + own_bytes(program, mesh)
    return Sampler(memory, per_chip(weights), time.perf_counter() - begun)


def largest_rows(compile_rows: Callable[[int], int], limit: float) -> int:
    """The most rows of a chip that fit.

    Args:
        compile_rows: Rows of a chip → bytes of a chip; may raise `DoesNotFitError`.
        limit: Bytes that a chip has.

    Returns:
        0 where not even one fits; else a number that was compiled and found to fit.
    """

    def measured(rows: int) -> float:
        try:
            return compile_rows(rows)
        except DoesNotFitError:
            return math.inf

    one = measured(1)
    if one > limit:
        return 0
    two = measured(2)
    if two > limit:
        return 1
    guess = 1 + int((limit - one) // max(two - one, 1.0))
    while guess > 2:
        used = measured(guess)
        if used <= limit:
            return guess
        # Not quite affine, as layouts change with the size: on the line from 2 to here, or halfway to it.
        share = (limit - two) / (used - two) if math.isfinite(used) else 0.5
        guess = min(guess - 1, 2 + int((guess - 2) * share))
    return 2


def compiled(what: str, compile_program: Callable[[], Any]) -> Any:
    """Compiles; where the compiler runs out of memory, that becomes an error of ours.

    Raises:
        DoesNotFitError: With the bytes that it asked for.
    """
    try:
        return compile_program()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"(?:[Uu]sed |temporaries \()([\d.]+)([KMG])", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}
        raise DoesNotFitError(what, float(found[1]) * scale[found[2]] if found else math.nan) from None


def own_bytes(program: Any, mesh: Mesh) -> int:
    """What a program holds at its peak besides its arguments.

    A TPU compiler's peak counts the arguments, too, and its sum of temporaries counts memory twice that one after
    the other uses; on other platforms the peak leaves out the temporaries.
    """
    m = program.memory_analysis()
    if mesh.devices.flat[0].platform == "tpu":
        return int(m.peak_memory_in_bytes - m.argument_size_in_bytes)
    return int(m.temp_size_in_bytes + max(0, m.output_size_in_bytes - m.alias_size_in_bytes))


def per_chip(tree: PyTree) -> int:
    """Bytes of the shards of one chip of placed shapes."""
    return sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding is not None else leaf.shape
    size = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.dtype(leaf.dtype).itemsize
    return int(math.prod(shape)) * size


def _laid(shapes: PyTree, where: PyTree) -> PyTree:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def _between_slices(traffic: Traffic, mesh: Mesh, gradient_bytes: int) -> Traffic:
    """Adds the all-reduce of gradients over slices, which a compiled program leaves to the hosts' network unnamed."""
    slices = sharding.num_slices(mesh.devices.flat)
    if slices == 1 or any("data" in axes for _, axes in traffic.bytes):
        return traffic
    sent = {("all-reduce", "data"): 2 * gradient_bytes * (slices - 1) // slices}
    return traffic._replace(bytes={**traffic.bytes, **sent})


def _added(first: Traffic, second: Traffic) -> Traffic:
    kinds = first.bytes.keys() | second.bytes.keys()
    summed = {kind: first.bytes.get(kind, 0) + second.bytes.get(kind, 0) for kind in kinds}
    return Traffic(summed, first.loops_of_unknown_length + second.loops_of_unknown_length)
