"""Prices by hand, and bounds that are bounds."""

import pytest
from fakes import ask

from w4s_jax.executor.prices import (
    LIST_PRICES,
    Price,
    PriceTable,
    cost_of,
    parse_prices,
    prompt_tokens_bound,
    usage_bound,
)
from w4s_jax.types import InputError, Message, Usage


def test_a_call_costs_what_the_list_says():
    # gpt-4o-mini: (1000-400)·0.15 + 400·0.075 + 500·0.60 USD per million = 90 + 30 + 300 = 420 micro-USD
    usage = Usage(prompt_tokens=1000, cached_prompt_tokens=400, completion_tokens=500)
    assert PriceTable().of("gpt-4o-mini").usd(usage) == pytest.approx(420e-6)


def test_a_dated_snapshot_costs_what_its_model_does_unless_it_is_listed():
    table = PriceTable()
    assert table.of("gpt-4o-mini-2024-07-18") == LIST_PRICES["gpt-4o-mini"]
    assert table.of("gpt-4o-2024-05-13").input == 5.0


@pytest.mark.parametrize("model", ["llama-3", "gpt-4o-mini-audio", "gpt-9", ""])
def test_an_unknown_price_is_an_error_and_never_zero(model):
    with pytest.raises(InputError, match="--executor_prices"):
        PriceTable().of(model)


def test_an_override_wins_and_a_model_of_ones_own_may_be_free():
    table = PriceTable(parse_prices('{"gpt-4o": {"input": 1, "output": 2}, "mine": {"input": 0, "output": 0}}'))
    assert table.of("gpt-4o") == Price(input=1, cached_input=1, output=2)
    assert table.of("mine").usd(Usage(prompt_tokens=10**6, completion_tokens=10**6)) == 0


def test_simulated_prices_are_marked():
    assert PriceTable().of("anything", simulated=True).simulated
    assert PriceTable(parse_prices('{"s": {"input": 1, "output": 1}}')).of("s", simulated=True).simulated
    assert not PriceTable().of("gpt-4o").simulated


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"m": 3}',
        '{"m": {"input": 1}}',
        '{"m": {"input": 1, "output": 2, "inptu": 3}}',
        '{"m": {"input": -1, "output": 2}}',
        '{"m": {"input": NaN, "output": 2}}',
        '{"m": {"input": true, "output": 2}}',
        '{"m": {"input": "1", "output": 2}}',
    ],
)
def test_prices_that_are_not_prices_are_named(text):
    with pytest.raises(InputError, match="executor_prices"):
        parse_prices(text)


def test_no_prices_is_no_override():
    assert parse_prices("  ") == {}


@pytest.mark.parametrize("text", ["", "abc", "ünïcödé", "漢字" * 50, "🎲" * 9])
def test_the_prompts_bound_is_at_least_its_bytes(text):
    # A byte-level tokenizer that merged nothing would make one token a byte.
    assert prompt_tokens_bound([Message(role="user", content=text)]) > len(text.encode("utf-8"))


def test_the_bound_counts_every_choice():
    bound = usage_bound(ask("abc", max_tokens=100, n=5))
    assert bound.completion_tokens == 500
    assert cost_of(bound, Price(input=0, cached_input=0, output=2.0)).usd == pytest.approx(1000e-6)


def test_a_request_without_a_limit_has_no_bound():
    with pytest.raises(InputError, match="max_tokens"):
        usage_bound(ask(max_tokens=None))
