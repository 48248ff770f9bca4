"""`--dry_run`: the worst case of a command, before anything is spent.

RunConfig, split sizes, price → **calls, tokens, USD** → standard output

Every workflow is assumed to make all the calls one question may make, every reply to
be as long as it may be, every repair to be needed, every attempt to succeed. Prompts are
what workflows make of them; their length is stated as an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from w4s_jax.run.config import RunConfig
from w4s_jax.run.environment import make_prices, read_budget_usd
from w4s_jax.run.meta_agent import API
from w4s_jax.run.tasks import load_tasks, task_names
from w4s_jax.tasks.base import SealedTask
from w4s_jax.types import Split, Usage

PROMPT_TOKENS = 2000
"""Assumed of each call."""
META_PROMPT_TOKENS = 12_000
"""Assumed of each call of a meta-agent behind an API."""
_GUESSED_CALLS, _GUESSED = 3, Usage(prompt_tokens=500, completion_tokens=300)
"""What an item run may take on the average: a guess, and said to be one."""


def runs_of_rlao(config: RunConfig) -> dict[str, int]:
    """Most item runs of a whole run, by phase.

    Raises:
        InputError: An unknown task.
    """
    search, training = config.search, config.training
    train, evaluated = task_names(config.tasks)
    tasks = load_tasks(config.tasks, (*train, *evaluated))
    validation = {name: len(task.items(Split.VALIDATION)) for name, task in tasks.items()}
    seeds = sum(validation[name] * len(task.seed_workflows()) for name, task in tasks.items())
    searches = (2 if training.evaluate_before else 1) * (training.eval_num_turns or search.num_turns)
    a_turn = search.num_candidates * (max(validation.values()) + search.max_repairs)
    rounds = 0 if training.trajectories else training.num_rounds * training.trajectories_per_round * search.num_turns
    finalists = (3 if training.evaluate_before else 2) * (1 + len(training.eval_after_turns))
    return {
        "seed workflows": seeds,
        "searches before and after": searches * len(evaluated) * a_turn,
        "training rounds": rounds * a_turn,
        "closing test evaluation": finalists * sum(tasks[name].split_sizes()[Split.TEST] for name in evaluated),
    }


def runs_of_optimize(config: RunConfig, tasks: Mapping[str, SealedTask]) -> dict[str, int]:
    """Most item runs of a search on each task, by phase."""
    validation = {name: len(task.items(Split.VALIDATION)) for name, task in tasks.items()}
    seeds = sum(validation[name] * len(task.seed_workflows()) for name, task in tasks.items())
    search = config.search
    a_turn = sum(search.num_candidates * (size + search.max_repairs) for size in validation.values())
    runs = {"seed workflows": seeds, "search": search.num_turns * a_turn}
    if config.optimize.test:
        runs["closing test evaluation"] = 2 * sum(task.split_sizes()[Split.TEST] for task in tasks.values())
    return runs


def calls_of_meta_agent(config: RunConfig, searches: int) -> dict[str, int]:
    """Most calls of a meta-agent behind an API, by its name; none for one on this machine."""
    name, search = config.meta_agent.meta_agent, config.search
    calls = searches * search.num_turns * search.num_candidates * (1 + search.max_repairs)
    return {name.removeprefix(API): calls} if name.startswith(API) else {}


def worst_case(
    config: RunConfig, runs: Mapping[str, int], meta_agent: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Calls, tokens and USD that so many item runs cost at most.

    Args:
        config: Of the run.
        runs: Item runs by phase.
        meta_agent: Calls of models behind an API that write workflows, by model.

    Raises:
        InputError: An unknown price.
    """
    executor = config.executor
    calls = sum(runs.values()) * executor.max_calls_per_item
    usage = Usage(prompt_tokens=calls * PROMPT_TOKENS, completion_tokens=calls * executor.max_tokens)
    price = make_prices(executor.prices).of(executor.model, simulated=executor.simulated)
    writing = [_writing(config, model, count) for model, count in (meta_agent or {}).items()]
    return {
        "meta_agent": writing,
        "item_runs": dict(runs),
        "calls": calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": price.usd(usage),
        "usd_guess": sum(runs.values()) * _GUESSED_CALLS * price.usd(_GUESSED),
        "usd_with_meta_agent": price.usd(usage) + sum(part["usd"] for part in writing),
        "budget_usd": read_budget_usd(config.budget.usd),
    }


def _writing(config: RunConfig, model: str, calls: int) -> dict[str, Any]:
    """The worst case of a meta-agent behind an API."""
    longest = config.meta_agent.sampling.max_new_tokens
    usage = Usage(prompt_tokens=calls * META_PROMPT_TOKENS, completion_tokens=calls * longest)
    return {
        "model": model,
        "calls": calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": make_prices(config.executor.prices).of(model).usd(usage),
    }


def format_case(config: RunConfig, case: Mapping[str, Any]) -> str:
    """The worst case as people read it."""
    executor = config.executor
    lines = ["Worst case, if every workflow makes every call it may (nothing was sent):"]
    lines += [f"  {name:<28} {count:>12,} item runs" for name, count in case["item_runs"].items()]
    lines += [
        f"  {'calls':<28} {case['calls']:>12,}  ({executor.max_calls_per_item} an item run, --max_calls_per_item)",
        f"  {'prompt tokens':<28} {case['prompt_tokens']:>12,}  ({PROMPT_TOKENS} a call is an assumption)",
        f"  {'completion tokens':<28} {case['completion_tokens']:>12,}  "
        f"({executor.max_tokens} a call, --executor_max_tokens)",
        f"  {'USD':<28} {case['usd']:>12,.2f}" + ("  (simulated)" if executor.simulated else "  by list price"),
        *(
            f"  {'meta-agent ' + part['model']:<28} {part['calls']:>12,}  calls, {part['usd']:,.2f} USD by list price "
            f"({META_PROMPT_TOKENS} prompt tokens a call is an assumption, "
            f"{config.meta_agent.sampling.max_new_tokens} new ones at most)"
            for part in case["meta_agent"]
        ),
        f"  {'a guess instead, USD':<28} {case['usd_guess']:>12,.2f}  (3 calls an item run, 500 + 300 tokens each)",
        "Attempts that fail and may have been billed come on top: how many, only the service knows.",
    ]
    cap = case["budget_usd"]
    if cap is not None and math.isfinite(cap):
        lines.append(f"Never more than --budget_usd={cap:g} is spent: a call that could pass it is not sent.")
    return "\n".join(lines)
