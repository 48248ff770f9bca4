"""A meta-agent that is only sampled from: a model behind an API, or one on this machine's devices.

--meta_agent → **open_meta_agent** → types.Policy

Whoever has a key and no accelerator needs no JAX: what imports it is imported where a local
model is asked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from absl import flags

from experiments.world import Environment, metered
from w4s_jax.executor.client import OpenAIBackend, resolved_base_url
from w4s_jax.executor.meta_agent import ApiPolicy
from w4s_jax.types import InputError, Policy

FLAGS = flags.FLAGS

API = "api:"


@contextlib.asynccontextmanager
async def open_meta_agent(environment: Environment) -> AsyncIterator[Policy]:
    """The meta-agent of `--meta_agent`, closed with the context.

    Raises:
        InputError: a missing key or price, no cap in USD, or a model that cannot be read.
        CheckpointError: a run directory holds no readable checkpoint.
    """
    if FLAGS.meta_agent.startswith(API):
        async with metered(
            _backend(FLAGS.meta_agent.removeprefix(API)), environment.calls, environment.budget
        ) as executor:
            yield ApiPolicy(executor)
        return
    try:
        from experiments.local_agent import open_local_agent
    except ImportError as error:
        raise InputError(
            f"--meta_agent={FLAGS.meta_agent} runs on this machine and needs JAX ({error}); install it with "
            "pip install -e '.[train]', or name a model behind an API: --meta_agent=api:MODEL"
        ) from error

    policy = open_local_agent()
    try:
        yield policy
    finally:
        policy.close()


def _backend(model: str) -> OpenAIBackend:
    """The door to an API meta-agent; without an address of its own it is at the executor's.

    The executor's key goes to the executor's address alone, so another address needs META_AGENT_API_KEY.
    """
    executors = resolved_base_url(FLAGS.executor_base_url if FLAGS.executor == "openai" else None)
    base_url = FLAGS.meta_agent_base_url or os.environ.get("META_AGENT_BASE_URL") or executors
    elsewhere = base_url.rstrip("/") != executors.rstrip("/")
    try:
        return OpenAIBackend(
            model,
            base_url=base_url,
            key_variables=("META_AGENT_API_KEY",) if elsewhere else ("META_AGENT_API_KEY", "OPENAI_API_KEY"),
            timeout_seconds=FLAGS.call_timeout,
        )
    except InputError as error:
        raise InputError(f"--meta_agent={FLAGS.meta_agent}: {error}") from None
