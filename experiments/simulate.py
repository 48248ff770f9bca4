"""Serves the simulated executor as an OpenAI-compatible API: `python -m experiments.simulate --task=toy`.

tasks → SimulatedBackend → **server on loopback** ⇄ any OpenAI client

It answers the questions of the tasks that it was started with as the simulator in the
process does, so that the whole way over HTTP can be tried without a key: the
real client, its retries and its ledger. With latency and faults it is as bad as a real
service can be. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from experiments import app
from w4s_jax.executor.prices import SIMULATED_PRICE
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.door import MODEL_NAME
from w4s_jax.executor.simulator.server import FaultKind, ServerOptions, serve
from w4s_jax.tasks.base import SealedTask, SplitSizes
from w4s_jax.tasks.registry import expand_tasks, make_task
from w4s_jax.types import InputError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """The flags that decide the items are those of every command; the others are the server's own."""
    options = ServerOptions()
    flags.DEFINE_list("task", ["toy", "toy_held_out"], "Tasks whose questions it knows, as --task and --eval_task.")
    flags.DEFINE_string("data_dir", "", "Folder with NAME/SPLIT.jsonl files; empty: the Hugging Face hub.")
    flags.DEFINE_integer("split_seed", 0, "Seed of the splits, as in the client's run.")
    flags.DEFINE_integer("validation_size", 0, "As in the client's run.", lower_bound=0)
    flags.DEFINE_integer("test_size", 0, "As in the client's run.", lower_bound=0)
    flags.DEFINE_integer("port", 0, "Port on 127.0.0.1 (0: a free one).", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_float("latency_scale", options.latency_scale, "Seconds slept a simulated second.", lower_bound=0.0)
    flags.DEFINE_list("faults", [], f"KIND=PROBABILITY,… of an attempt; kinds: {', '.join(FaultKind)}.")
    flags.DEFINE_integer("fault_seed", options.fault_seed, "Seed of the faults.")
    flags.DEFINE_float("retry_after", options.retry_after, "Seconds that a 429 asks to wait.", lower_bound=0.0)
    flags.DEFINE_list("unsupported", [], "Parameters refused with a 400, e.g. temperature,n.")


def load_tasks() -> list[SealedTask]:
    """The tasks of `--task`, with the sizes and splits that the client's run will ask for."""
    sizes = SplitSizes(validation=FLAGS.validation_size or None, test=FLAGS.test_size or None)
    return [
        make_task(name, data_dir=FLAGS.data_dir or None, split_seed=FLAGS.split_seed, sizes=sizes)
        for name in expand_tasks(",".join(FLAGS.task))
    ]


def read_faults(entries: Sequence[str]) -> dict[FaultKind, float]:
    """Reads `--faults`.

    Raises:
        InputError: an unknown kind, or what should be a probability is no number.
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


def client_flags(url: str) -> str:
    """The flags that make `experiments.rlao` use this server."""
    price = {"input": SIMULATED_PRICE.input, "cached_input": SIMULATED_PRICE.cached_input}
    prices = json.dumps({MODEL_NAME: price | {"output": SIMULATED_PRICE.output}})
    return " \\\n    ".join(
        (
            f"--executor=openai --executor_base_url={url} --executor_model={MODEL_NAME}",
            f"--executor_prices={shlex.quote(prices)} --budget_usd=1",
            f"--task={','.join(FLAGS.task)} --split_seed={FLAGS.split_seed}"
            f" --validation_size={FLAGS.validation_size} --test_size={FLAGS.test_size}",
        )
    )


async def simulate() -> None:
    """Serves until it is stopped."""
    options = ServerOptions(
        latency_scale=FLAGS.latency_scale,
        faults=read_faults(FLAGS.faults),
        fault_seed=FLAGS.fault_seed,
        retry_after=FLAGS.retry_after,
        unsupported=frozenset(FLAGS.unsupported),
    )
    backend = SimulatedBackend(tasks=load_tasks())
    try:
        async with serve(backend, FLAGS.port, options) as url:
            print(f"simulated executor for {len(backend)} questions at {url}\n", flush=True)
            print(f"python -m experiments.rlao \\\n    {client_flags(url)}\n")
            print(
                "A client takes it for a paid service: it wants a cap (--budget_usd) and prices. These are the made-up\n"
                'ones of the simulator; {"input": 0, "output": 0} makes it free. Nothing here costs real money.\n'
                "Ctrl-C stops it.",
                flush=True,
            )
            await asyncio.Event().wait()
    except OSError as error:
        raise InputError(f"--port={FLAGS.port}: {error.strerror}; give a free port, or 0 for any") from None


def main(argv: Sequence[str]) -> None:
    """Serves; Ctrl-C and SIGTERM end it."""
    del argv
    app.run_async(simulate())


if __name__ == "__main__":
    define_flags()
    app.run(main)
