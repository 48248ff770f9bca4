"""What a token costs: list prices by model, and the upper bound of a call's cost.

--executor_prices + list prices → **PriceTable** → reserve (upper bound) → settle (usage)

A model whose price nobody knows is an error, never free: a local model that
costs nothing is said to cost nothing. USD are an estimate from list prices;
discounts, taxes and regional premiums are not in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from w4s_jax.types import ChatRequest, InputError, Message, Usage

_MILLION = 1_000_000
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")

# A token of a byte-level vocabulary is at least one byte. A chat template adds a
# few tokens a message, and some add a short system prompt of their own.
_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_PROMPT = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """USD per million tokens.

    Example:
        >>> Price(input=0.15, cached_input=0.075, output=0.6).usd(Usage(prompt_tokens=1_000_000))
        0.15
    """

    input: float
    cached_input: float
    """For prompt tokens that the vendor's own prefix cache served."""
    output: float
    simulated: bool = False
    """Made up, for a simulated model."""

    def usd(self, usage: Usage) -> float:
        """USD of a call that used `usage`."""
        fresh = usage.prompt_tokens - usage.cached_prompt_tokens
        cost = fresh * self.input + usage.cached_prompt_tokens * self.cached_input
        return (cost + usage.completion_tokens * self.output) / _MILLION


def _price(input_: float, cached_input: float, output: float) -> Price:
    return Price(input=input_, cached_input=cached_input, output=output)


LIST_PRICES: Mapping[str, Price] = {
    "gpt-3.5-turbo": _price(0.50, 0.50, 1.50),
    "gpt-4o": _price(2.50, 1.25, 10.00),
    "gpt-4o-2024-05-13": _price(5.00, 5.00, 15.00),
    "gpt-4o-mini": _price(0.15, 0.075, 0.60),
    "gpt-4.1": _price(2.00, 0.50, 8.00),
    "gpt-4.1-mini": _price(0.40, 0.10, 1.60),
    "gpt-4.1-nano": _price(0.10, 0.025, 0.40),
    "gpt-5": _price(1.25, 0.125, 10.00),
    "gpt-5-mini": _price(0.25, 0.025, 2.00),
    "gpt-5-nano": _price(0.05, 0.005, 0.40),
    "o3": _price(2.00, 0.50, 8.00),
    "o3-mini": _price(1.10, 0.55, 4.40),
    "o4-mini": _price(1.10, 0.275, 4.40),
}
"""OpenAI's list prices at the standard tier; a dated snapshot costs what its model does unless listed."""

SIMULATED_PRICE = Price(input=0.15, cached_input=0.075, output=0.60, simulated=True)
"""Of every simulated model without a price of its own: made up, at the level of a small hosted model."""


class CallCost(NamedTuple):
    """What one attempt costs, or may cost at most."""

    usd: float = 0.0
    tokens: int = 0
    """Prompt and completion together."""
    calls: int = 0
    """Attempts."""


class PriceTable:
    """Looks prices up, overrides first."""

    def __init__(self, overrides: Mapping[str, Price] | None = None) -> None:
        self._overrides = dict(overrides or {})

    def of(self, model: str, *, simulated: bool = False) -> Price:
        """The price of `model`.

        Raises:
            InputError: Nobody knows it.
        """
        if model in self._overrides:
            return dataclasses.replace(self._overrides[model], simulated=simulated)
        if simulated:
            return SIMULATED_PRICE
        listed = LIST_PRICES.get(model) or LIST_PRICES.get(_SNAPSHOT.sub("", model))
        if listed is None:
            raise InputError(
                f"the price of model {model!r} is unknown; give it in USD per million tokens, "
                f'--executor_prices=\'{{"{model}": {{"input": 0.5, "output": 1.5}}}}\' (0 for a model of your own)'
            )
        return listed


def parse_prices(text: str) -> dict[str, Price]:
    """Reads `--executor_prices`: `{model: {"input": …, "cached_input": …, "output": …}}`.

    Args:
        text: JSON; empty for no overrides. `cached_input` may be left out and is then `input`.

    Raises:
        InputError: It is not such JSON, or a price is not a finite number ≥ 0.
    """
    if not text.strip():
        return {}
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--executor_prices is not JSON ({error}); write {_PRICES_FORM}") from None
    if not isinstance(table, dict):
        raise InputError(f"--executor_prices={text!r} is not a JSON object; write {_PRICES_FORM}")
    return {model: _parse_price(model, entry) for model, entry in table.items()}


_PRICES_FORM = '\'{"MODEL": {"input": 0.15, "cached_input": 0.075, "output": 0.6}}\' in USD per million tokens'
_PRICE_KEYS = ("input", "cached_input", "output")


def _parse_price(model: str, entry: Any) -> Price:
    if not isinstance(entry, dict) or not {"input", "output"} <= entry.keys() <= set(_PRICE_KEYS):
        raise InputError(f"--executor_prices has {model!r}: {entry!r}; write {_PRICES_FORM}")
    for name, value in entry.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise InputError(f"--executor_prices has {name}={value!r} for {model!r}; it has to be a finite number >= 0")
    prices = {"cached_input": entry["input"], **entry}
    return Price(**prices)


def prompt_tokens_bound(messages: Iterable[Message]) -> int:
    """An upper bound of the prompt's tokens: the bytes of its text, and a margin for the chat template.

    Raises:
        UnicodeEncodeError: A message holds a lone surrogate.
    """
    text = sum(len(m.content.encode()) + len(m.role) + _TOKENS_PER_MESSAGE for m in messages)
    return text + _TOKENS_PER_PROMPT


def usage_bound(request: ChatRequest) -> Usage:
    """The most tokens that one attempt of `request` can use; its `max_tokens` has to be set.

    Raises:
        InputError: `max_tokens` is None, so there is no bound.
    """
    if request.max_tokens is None:
        raise InputError("max_tokens=None has no upper bound of cost; set it to a number of tokens")
    completion = request.max_tokens * request.n
    return Usage(prompt_tokens=prompt_tokens_bound(request.messages), completion_tokens=completion)


def cost_of(usage: Usage, price: Price) -> CallCost:
    """The cost of one attempt that used `usage`; with `usage_bound`, the most it can cost."""
    return CallCost(price.usd(usage), usage.prompt_tokens + usage.completion_tokens, 1)
