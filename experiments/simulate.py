"""Serves the simulated executor as an OpenAI-compatible API: `python -m experiments.simulate --task=toy`.

tasks → SimulatedBackend → **server on loopback** ⇄ any OpenAI client

It answers the questions of the tasks that it was started with as the simulator in the
process does, so that the whole way over HTTP can be tried without a key: the
real client, its retries and its ledger. With latency and faults it is as bad as a real
service can be. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shlex
import signal
import sys
from collections.abc import Sequence

from absl import flags

from w4s_jax.executor.prices import SIMULATED_PRICE
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.server import FaultKind, ServerOptions, serve
from w4s_jax.run.config import SIMULATE_OPTIONS, RunConfig
from w4s_jax.run.tasks import load_tasks, task_names
from w4s_jax.types import InputError

from . import app
from .flags import Flags

_AS_GIVEN = (
    *("task", "eval_task", "data_dir", "data_revision", "split_seed", "split_sizes", "train_size", "validation_size"),
    *("test_size", "input_field", "target_field", "scorer"),
)
"""Flags that decide the questions: the client's run has to have the same."""

_DEFAULTS = ServerOptions()
FLAGS = Flags(RunConfig(), SIMULATE_OPTIONS)
PORT = flags.DEFINE_integer(
    "port", 0, "Port on 127.0.0.1 (0: a free one).", lower_bound=0, upper_bound=65_535, flag_values=FLAGS.values
)
LATENCY_SCALE = flags.DEFINE_float(
    "latency_scale",
    _DEFAULTS.latency_scale,
    "Seconds slept a simulated second.",
    lower_bound=0.0,
    flag_values=FLAGS.values,
)
LATENCY_SIGMA = flags.DEFINE_float(
    "latency_sigma",
    _DEFAULTS.latency_sigma,
    "Log-normal spread of the latency.",
    lower_bound=0.0,
    flag_values=FLAGS.values,
)
FAULTS = flags.DEFINE_list(
    "faults", [], f"KIND=PROBABILITY,… of an attempt; kinds: {', '.join(FaultKind)}.", flag_values=FLAGS.values
)
FAULT_SEED = flags.DEFINE_integer("fault_seed", _DEFAULTS.fault_seed, "Seed of the faults.", flag_values=FLAGS.values)
RETRY_AFTER = flags.DEFINE_float(
    "retry_after", _DEFAULTS.retry_after, "Seconds that a 429 asks to wait.", lower_bound=0.0, flag_values=FLAGS.values
)
UNSUPPORTED = flags.DEFINE_list(
    "unsupported", [], "Parameters refused with a 400, e.g. temperature,n.", flag_values=FLAGS.values
)


def read_faults(entries: Sequence[str]) -> dict[FaultKind, float]:
    """Reads `--faults`.

    Raises:
        InputError: An unknown kind, or what should be a probability is no number.
    """
    faults = {}
    for entry in entries:
        kind, _, probability = entry.partition("=")
        try:
            faults[FaultKind(kind)] = float(probability)
        except ValueError:
            raise InputError(
                f"--faults={entry!r} is not KIND=PROBABILITY; kinds are {', '.join(FaultKind)}, e.g. server_error=0.1"
            ) from None
    return faults


def client_flags(url: str, model: str) -> list[str]:
    """The flags that make `experiments.rlao` use this server, a line each."""
    prices = {
        "input": SIMULATED_PRICE.input,
        "cached_input": SIMULATED_PRICE.cached_input,
        "output": SIMULATED_PRICE.output,
    }
    return [
        f"--executor=openai --executor_base_url={url} --executor_model={model}",
        f"--executor_prices={shlex.quote(json.dumps({model: prices}))} --budget_usd=1",
        " ".join(shlex.quote(FLAGS.values[name].serialize()) for name in _AS_GIVEN if FLAGS.values[name].present),
    ]


async def simulate() -> int:
    """Serves until a signal comes, and returns the exit code.

    Raises:
        InputError: An unknown task, or a port or faults that cannot be.
    """
    stopped: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.put_nowait, 128 + number)
    options = ServerOptions(
        latency_scale=LATENCY_SCALE.value,
        latency_sigma=LATENCY_SIGMA.value,
        faults=read_faults(FAULTS.value),
        fault_seed=FAULT_SEED.value,
        retry_after=RETRY_AFTER.value,
        unsupported=frozenset(UNSUPPORTED.value),
    )
    config = FLAGS.config().tasks
    tasks = load_tasks(config, itertools.chain(*task_names(config)))
    backend = SimulatedBackend(tasks=tasks.values())
    try:
        async with serve(backend, PORT.value, options) as url:
            command = ["python -m experiments.rlao", *filter(None, client_flags(url, backend.model))]
            print(f"simulated executor at {url}: knows {len(backend)} questions of {', '.join(tasks)}\n")
            print(" \\\n    ".join(command) + "\n")
            print(
                f"A model named {backend.model!r} on this machine is known to be simulated; cap and prices, the\n"
                "simulator's made-up ones, bind it all the same. With another --executor_model, which this server\n"
                "takes as well, the client sees a paid service and wants both. No real money is spent.\n"
                "Ctrl-C stops it.",
                flush=True,
            )
            return await stopped.get()
    except OSError as error:
        raise InputError(f"--port={PORT.value} cannot be had ({error.strerror}); give another, or 0 for any") from None


def main() -> None:
    """Serves until Ctrl-C."""
    sys.exit(asyncio.run(simulate()))


if __name__ == "__main__":
    app.run(main, FLAGS)
