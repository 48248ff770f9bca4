"""The meta-agent of a run: what it decides of its own sampling, and how it is opened to be sampled from.

RunConfig → **resolved** → RunConfig; --meta_agent → **open_meta_agent** → types.Policy

Whoever has a key and no accelerator needs no JAX: what imports it is imported where a local
model is asked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from w4s_jax.executor.base import Backend
from w4s_jax.executor.client import OpenAIBackend, resolved_base_url
from w4s_jax.prompts import CompactTemplate, FullTemplate, PromptTemplate
from w4s_jax.run.api_policy import ApiPolicy
from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import flags_of
from w4s_jax.run.environment import Environment, make_metered
from w4s_jax.run.options import options, replaced
from w4s_jax.types import InputError, Policy, SamplingOptions

API = "api:"
"""What stands before the name of a model behind an API."""

_GENERAL: Mapping[str, Any] = {
    "prompt_template": "full",
    "temperature": SamplingOptions().temperature,
    "max_new_tokens": SamplingOptions().max_new_tokens,
    "cache_length": 0,
    "compute_dtype": "bfloat16",
}
"""Of any meta-agent that has no settings of its own."""
_OF_TINY: Mapping[str, Any] = {
    "prompt_template": "compact",
    "temperature": 1.0,
    "max_new_tokens": 128,
    "cache_length": 640,
    "compute_dtype": "float32",
}
"""How the packaged agent was made and is trained."""


def resolved(config: RunConfig) -> RunConfig:
    """The config with what it leaves to the meta-agent.

    The packaged agent has its own settings; a run directory, or the export in it, has those that
    it was trained with.
    """
    return with_settings(config, own_settings(config.meta_agent.meta_agent))


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The config with these settings, and with the general ones, where it has none."""
    known = options(RunConfig)
    settled = {**_GENERAL, **settings}
    return replaced(config, {name: value for name, value in settled.items() if known[name].value(config) is None})


def own_settings(meta_agent: str) -> Mapping[str, Any]:
    """What a meta-agent decides of its own sampling, by option."""
    if meta_agent == "tiny":
        return _OF_TINY
    path = Path(meta_agent).resolve()
    for folder in (path, path.parent) if path.is_dir() else ():
        if (folder / "run.flags").is_file():
            given, known = flags_of(folder), options(RunConfig)
            return {name: known[name].read(given[name]) for name in _OF_TINY if name in given}
    return {}


def make_template(config: RunConfig) -> PromptTemplate:
    """What the meta-agent is asked with, by `--prompt_template`."""
    return CompactTemplate() if config.meta_agent.prompt_template == "compact" else FullTemplate()


# --- to sample from ---------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_meta_agent(
    config: RunConfig, environment: Environment, *, backend: Backend | None = None
) -> AsyncIterator[Policy]:
    """The meta-agent of `--meta_agent`, closed with the context.

    Args:
        config: Of the run, resolved.
        environment: Whose budget and cache a model behind an API shares.
        backend: Asked instead, for a model behind an API.

    Raises:
        InputError: A missing key or price, no cap in USD, or a model that cannot be read.
        CheckpointError: A run directory holds no readable checkpoint.
    """
    name = config.meta_agent.meta_agent
    if backend is not None or name.startswith(API):
        backend = backend or _make_backend(config)
        async with make_metered(config, backend, environment.calls, environment.budget) as executor:
            yield ApiPolicy(executor)
        return
    try:
        from w4s_jax.run.local_agent import open_local_agent
    except ImportError as error:
        raise InputError(
            f"--meta_agent={name} runs on this machine and needs JAX ({error}); install it with "
            "pip install 'w4s_jax[train]', or name a model behind an API: --meta_agent=api:MODEL"
        ) from error

    policy = open_local_agent(config)
    try:
        yield policy
    finally:
        policy.close()


def _make_backend(config: RunConfig) -> OpenAIBackend:
    """The back end of an API meta-agent; without an address of its own it is at the executor's.

    The executor's key goes to the executor's address alone, so another address needs META_AGENT_API_KEY.
    """
    name, executor = config.meta_agent.meta_agent, config.executor
    executors = resolved_base_url(None if executor.simulated else executor.base_url)
    base_url = config.meta_agent.base_url or os.environ.get("META_AGENT_BASE_URL") or executors
    elsewhere = base_url.rstrip("/") != executors.rstrip("/")
    try:
        return OpenAIBackend(
            name.removeprefix(API),
            base_url=base_url,
            key_variables=("META_AGENT_API_KEY",) if elsewhere else ("META_AGENT_API_KEY", "OPENAI_API_KEY"),
            timeout_seconds=executor.call_timeout,
        )
    except InputError as error:
        raise InputError(f"--meta_agent={name}: {error}") from None
