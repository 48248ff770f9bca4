"""Who answers and who writes: what `executor=` and `meta_agent=` of a call can be.

"gpt-4o-mini", Model(client, name), Simulated(), "tiny", a folder → **Endpoint** → options, Backend
"""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai

from w4s_jax.executor.base import Backend
from w4s_jax.executor.client import OpenAIBackend, find_key, resolved_base_url
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.backend import MODEL_NAME
from w4s_jax.executor.simulator.model import SampleId
from w4s_jax.run.arguments import OF_PROGRAM
from w4s_jax.run.config import RunConfig
from w4s_jax.run.meta_agent import API
from w4s_jax.tasks.base import SealedTask
from w4s_jax.types import ChatRequest, InputError, Message

_RETRIES = 5
"""Of a client that a finished workflow asks with: nothing else retries there."""


class Simulated(NamedTuple):
    """The simulated executor: free, on this machine, and no evidence about real models.

    Example:
        >>> Simulated()
        Simulated()
    """


class Model(NamedTuple):
    """A model at a client, whose address, key and headers are used.

    Example:
        >>> Model(openai.AsyncOpenAI(api_key="sk-example"), "gpt-4o-mini").name
        'gpt-4o-mini'
    """

    client: openai.AsyncOpenAI
    """Or a subclass, e.g. `openai.AsyncAzureOpenAI`. It is copied: connections, retries and timeouts are our own."""
    name: str
    """As the client's server calls it."""


class Endpoint(NamedTuple):
    """What answers, as options, and as an object where options cannot say it."""

    values: Mapping[str, Any]
    """Options by name."""
    model: Model | None = None
    """None: the options say it all."""
    comment: str = ""
    """For people who read `run.flags`."""

    def make_backend(self, config: RunConfig) -> Backend | None:
        """Asks the object; None where the options say it all. Closed by whoever meters it."""
        if self.model is None:
            return None
        return OpenAIBackend(
            self.model.name,
            client=self.model.client,
            timeout_seconds=config.executor.call_timeout,
            simulated_on_loopback=MODEL_NAME,
        )


def executor_endpoint(given: Any) -> Endpoint:
    """What `executor=` stands for.

    Raises:
        InputError: It is none of what it can be.
    """
    if isinstance(given, Simulated) or given is Simulated:
        return Endpoint({"executor": "simulated", "executor_model": MODEL_NAME})
    if isinstance(given, str):
        name = _named("executor", given).removeprefix(API)
        return Endpoint({"executor": "openai", "executor_model": name})
    model = _model("executor", given, "a model's name, w4s_jax.Model(client, name), or w4s_jax.Simulated()")
    return _of_client("executor", model, {"executor": "openai", "executor_model": model.name}, "executor_base_url")


def meta_agent_endpoint(given: Any) -> Endpoint:
    """What `meta_agent=` stands for: `tiny`, a folder that exists, a Hugging Face id (ORG/NAME), else a model's name.

    Raises:
        InputError: It is none of what it can be.
    """
    if isinstance(given, Simulated) or given is Simulated:
        raise InputError("meta_agent=Simulated() answers questions and writes no workflows; give tiny, or a model")
    if isinstance(given, Path):
        if not given.is_dir():
            raise InputError(f"meta_agent={str(given)!r} is no folder; give one of a checkpoint, or a model's name")
        return Endpoint({"meta_agent": str(given)})
    if isinstance(given, str):
        name = _named("meta_agent", given)
        local = name == "tiny" or name.startswith(API) or Path(name).is_dir() or "/" in name
        return Endpoint({"meta_agent": name if local else API + name})
    model = _model("meta_agent", given, "tiny, a folder, a model's name, or w4s_jax.Model(client, name)")
    return _of_client("meta-agent", model, {"meta_agent": API + model.name}, "meta_agent_base_url")


def _named(argument: str, given: str) -> str:
    if not given.strip():
        raise InputError(f"{argument}={given!r} is empty; give a model's name, e.g. {argument}='gpt-4o-mini'")
    return given.strip()


def _model(argument: str, given: Any, wanted: str) -> Model:
    if isinstance(given, openai.AsyncOpenAI):
        raise InputError(f"{argument}={type(given).__name__} lacks a model; give w4s_jax.Model(client, 'NAME')")
    if not isinstance(given, tuple) or len(given) != 2:
        raise InputError(f"{argument}={given!r} is a {type(given).__name__}; give {wanted}")
    client, name = given
    if not isinstance(client, openai.AsyncOpenAI):
        raise InputError(
            f"{argument} has a {type(client).__name__} as its client; give openai.AsyncOpenAI or a subclass of it"
        )
    if not isinstance(name, str):
        raise InputError(f"{argument} has {name!r} as its model, a {type(name).__name__}; give its name")
    return Model(client, _named(argument, name))


def _of_client(role: str, model: Model, values: dict[str, Any], option: str) -> Endpoint:
    kind = type(model.client).__name__
    return Endpoint(
        {**values, option: f"{OF_PROGRAM}{kind} at {model.client.base_url}"},
        model=model,
        comment=f"{role}: {model.name}, asked through {kind}, an object of the program that began this run",
    )


# --- clients of finished workflows --------------------------------------------------


def make_client(config: RunConfig, endpoint: Endpoint, tasks: Iterable[SealedTask]) -> Any:
    """What a finished workflow asks: `chat.completions.create` of the run's executor, without its caps and cache.

    Args:
        config: Of the run.
        endpoint: Its executor.
        tasks: Whose questions a simulated executor can answer.

    Raises:
        InputError: The key is missing.
    """
    seconds = config.executor.call_timeout
    if config.executor.simulated:
        return SimulatedClient(SimulatedBackend(tasks=tasks))
    if endpoint.model is not None:
        transport = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
        return endpoint.model.client.with_options(  # no connection outlives its reply: its loop may end before it
            max_retries=_RETRIES, timeout=seconds, http_client=transport
        )
    url = resolved_base_url(config.executor.base_url or None)
    return openai.OpenAI(api_key=find_key(url), base_url=url, max_retries=_RETRIES, timeout=seconds)


@dataclasses.dataclass(frozen=True)
class SimulatedClient:
    """A simulated model as a client: `client.chat.completions.create(model=…, messages=[…])`."""

    backend: SimulatedBackend
    _asked: collections.Counter[ChatRequest] = dataclasses.field(default_factory=collections.Counter, repr=False)

    @property
    def chat(self) -> SimulatedClient:
        """Itself: a client's parts are one here."""
        return self

    @property
    def completions(self) -> SimulatedClient:
        """Itself."""
        return self

    def create(
        self,
        *,
        model: str,
        messages: Iterable[Mapping[str, str]],
        temperature: float = 1.0,
        n: int = 1,
        max_tokens: int | None = None,
        response_format: Mapping[str, str] | None = None,
    ) -> types.SimpleNamespace:
        """One reply, as `openai.OpenAI` gives it; of equal requests each is another sample."""
        request = ChatRequest(
            model=model,
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in messages),
            temperature=temperature,
            n=n,
            max_tokens=max_tokens,
            json_mode=response_format is not None,
        )
        reply = self.backend.reply(request, SampleId(0, self._asked[request]))
        self._asked[request] += 1
        choices = [types.SimpleNamespace(message=types.SimpleNamespace(content=text)) for text in reply.texts]
        return types.SimpleNamespace(choices=choices)
