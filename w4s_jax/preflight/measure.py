"""What the devices of this machine really do: the ceiling of an estimate, and a step to hold against it.

devices → **local_chip** → estimate; Trainer → **measured_seconds** → ratio of the two
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from w4s_jax.policy.transformer import init_variables
from w4s_jax.preflight.chips import Chip
from w4s_jax.training.step import Trainer
from w4s_jax.training.tree import PackedBatch
from w4s_jax.types import InputError

_SIZE = {"cpu": 1024}
"""Side of the square matrices multiplied, by platform; 8,192 elsewhere."""


def local_chip(dtype: DTypeLike) -> Chip:
    """The first device, with its measured ceilings: a large matrix product and a large copy.

    Args:
        dtype: Of the product's operands.
    """
    device = jax.devices()[0]
    size = _SIZE.get(device.platform, 8192)
    a = jnp.ones((size, size), dtype)
    product = best_seconds(jax.jit(lambda x: x @ x), a)
    wide = jnp.ones(2**26, jnp.float32)
    copy = best_seconds(jax.jit(lambda x: x + 1.0), wide)
    memory = (device.memory_stats() or {}).get("bytes_limit") or host_bytes() / jax.local_device_count()
    return Chip(
        name=device.device_kind,
        hbm_bytes=float(memory),
        # Virtual devices of one CPU share it.
        matrix_flops=2.0 * size**3 / product / _sharers(),
        hbm_bandwidth=2.0 * wide.nbytes / copy / _sharers(),
    )


def _sharers() -> int:
    return jax.local_device_count() if jax.devices()[0].platform == "cpu" else 1


def host_bytes(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Memory of this machine, in bytes: `MemTotal` of Linux, else what POSIX says.

    Args:
        meminfo: Linux's table of the machine's memory, one `Name: number kB` a line.

    Raises:
        InputError: Neither says it.
    """
    text = meminfo.read_text(encoding="ascii", errors="replace") if meminfo.is_file() else ""
    for line in text.splitlines():
        match line.split():
            case ["MemTotal:", size, "kB"] if size.isdigit():
                return float(size) * 1024
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the memory of this machine is unknown: {meminfo} has no line MemTotal and sysconf fails ({error}); "
            "give --topology, which needs no machine"
        ) from None


def best_seconds(work: Callable[..., Any], *args: Any, repeats: int = 5) -> float:
    """Of a compiled function, after one call that compiles it."""
    jax.block_until_ready(work(*args))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(work(*args))
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def measured_seconds(trainer: Trainer, batch: PackedBatch, num_actions: int, *, repeats: int = 3) -> float:
    """Median seconds of one gradient with its update, on random parameters.

    Args:
        trainer: On present devices.
        batch: One micro-batch.
        num_actions: That it is the mean over.
        repeats: Steps measured, after one that compiles.
    """
    where = trainer.state_shardings
    draw = jax.jit(lambda key: init_variables(trainer.model, key), out_shardings=where.params | where.frozen)
    state = trainer.init_state(draw(jax.random.key(0)))
    seconds = []
    for _ in range(repeats + 1):
        total = jax.block_until_ready(trainer.zero_grads())
        begun = time.perf_counter()
        total = trainer.accumulate(state, total, batch)
        state, _ = trainer.apply(state, total, num_actions)
        jax.block_until_ready(state.params)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def full_rows(rows: int, row_length: int, vocab_size: int) -> PackedBatch:
    """Rows of random tokens with every token a target: what `Shape.full_rows` counts."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (rows, row_length), np.int32)
    index = np.broadcast_to(np.arange(row_length, dtype=np.int32), tokens.shape).copy()
    share = np.full(tokens.shape, 1.0 / row_length, np.float32)
    uniform = np.full(tokens.shape, -np.log(vocab_size), np.float32)
    return PackedBatch(
        tokens=tokens,
        positions=index,
        expiry=np.full_like(index, row_length),
        target_source=index,
        target_token=tokens,
        target_weight=share,
        target_share=share,
        behaviour_logprob=uniform,
    )
