"""Several processes as one run: the first leads, the others follow.

`--distributed` → jax.distributed → **Leader.tell** → run_dir/commands/… → **Follower.commands** → the same collectives

Training state lies on the mesh of all processes, so each of them has to run the same
compiled programs in the same order. The leader (process 0) collects, evaluates and
writes, and before each such program it tells the others, by a small file that never
changes in the shared run directory; trajectories reach them as segments in the same
place. What a command does is the same code in both (`run/training.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.types import InputError

_POLL_SECONDS = 0.05
_BEGUN = "begun"


def join(config: RunConfig) -> None:
    """Joins the other processes where the config says so; to be called before any device is touched.

    Where the environment does not describe the processes (JAX_COORDINATOR_ADDRESS as HOST:PORT, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, as `launch.local` sets them), jax asks the TPU, Slurm, Kubernetes or MPI around it.

    Raises:
        InputError: Nothing describes the processes, or they could not share the run directory.
    """
    if not config.training.distributed:
        return
    if "://" in config.run_dir:
        raise InputError(
            f"--run_dir={config.run_dir} is no folder of this machine; mount the bucket and give its path, "
            "see docs/launch.md"
        )
    number, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if index is None else int(index),
            shutdown_timeout_seconds=30,
        )
    except ValueError as error:
        raise InputError(
            f"--distributed: the other processes cannot be found ({error}); start by `python -m launch.local`, or on a "
            "TPU slice, Slurm or Kubernetes, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


class Leader:
    """Tells the other processes what comes next; with none, does nothing."""

    def __init__(self, run: RunDirectory) -> None:
        """Begins a sequence of commands in a run directory that every process sees; all processes meet here.

        Raises:
            StoreError: It cannot be written.
        """
        self._run = run
        self._folder = run.commands / f"{_agree(int(time.time() * 1000)):x}"
        self._told = 0
        if jax.process_count() > 1:
            shutil.rmtree(run.commands, ignore_errors=True)  # of earlier starts
            run.write(self._folder / _BEGUN, "")
            multihost_utils.sync_global_devices("w4s_jax.commands")

    @staticmethod
    def refuse() -> None:
        """Sends the others home before anything began; all processes meet here."""
        _agree(0)

    def tell(self, what: str, **facts: Any) -> None:
        """Gives a command; the caller then does the same itself.

        Raises:
            StoreError: It cannot be written.
        """
        if jax.process_count() == 1:
            return
        self._run.write(self._folder / f"{self._told:08d}.json", json.dumps({"what": what, **facts}))
        self._told += 1

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """Sends the others home at the end, however it comes."""
        try:
            yield
        finally:
            self.tell("stop")


class Follower:
    """What a process that does not lead is told."""

    def __init__(self, run: RunDirectory) -> None:
        """Finds the sequence of commands of this start; all processes meet here.

        Raises:
            InputError: This process does not see the leader's run directory.
            SystemExit: The leader refused to begin, and has said why.
        """
        start = _agree(0)
        if not start:
            sys.exit(2)
        self._folder = run.commands / f"{start:x}"
        multihost_utils.sync_global_devices("w4s_jax.commands")
        if not (self._folder / _BEGUN).exists():
            raise InputError(
                f"--run_dir={run.root}: process {jax.process_index()} does not see what the leading process wrote "
                "there; give a folder that all processes share, see docs/launch.md"
            )

    def commands(self) -> Iterator[dict[str, Any]]:
        """Every command, as soon as it is there; ends with the command to stop."""
        for number in range(10**8):
            path = self._folder / f"{number:08d}.json"
            while not path.exists():
                time.sleep(_POLL_SECONDS)
            command = json.loads(path.read_text())
            if command["what"] == "stop":
                return
            yield command


def _agree(value: int) -> int:
    """The leader's value, in every process."""
    if jax.process_count() == 1:
        return value
    halves = np.array([value >> 31, value & 0x7FFFFFFF], np.int32)  # jax has no 64-bit numbers by default
    high, low = multihost_utils.broadcast_one_to_all(halves)
    return (int(high) << 31) | int(low)
