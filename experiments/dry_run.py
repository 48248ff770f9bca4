"""`--dry_run`: the worst case of a command, before anything is spent.

flags, split sizes, price → **calls, tokens, USD** → printed

Every workflow is assumed to make all the calls one question may make, every reply to
be as long as it may be, every repair to be needed, every attempt to succeed. Prompts are
what workflows make of them; their length is stated as an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.flags import read_budget_usd
from experiments.world import load_tasks, make_prices, task_names
from w4s_jax.tasks.base import SealedTask
from w4s_jax.types import Split, Usage

FLAGS = flags.FLAGS

PROMPT_TOKENS = 2000
"""Assumed of each call."""
META_PROMPT_TOKENS = 12_000
"""Assumed of each call of a meta-agent behind an API."""
_GUESSED_CALLS, _GUESSED = 3, Usage(prompt_tokens=500, completion_tokens=300)
"""What an item run may take on the average: a guess, and said to be one."""


def runs_of_rlao() -> dict[str, int]:
    """Most item runs of a whole run, by phase.

    Raises:
        InputError: an unknown task.
    """
    train, evaluated = task_names()
    tasks = load_tasks((*train, *evaluated))
    validation = {name: len(task.items(Split.VALIDATION)) for name, task in tasks.items()}
    seeds = sum(validation[name] * len(task.seed_workflows()) for name, task in tasks.items())
    searches = (2 if FLAGS.evaluate_before else 1) * (FLAGS.eval_num_turns or FLAGS.num_turns)
    developed = FLAGS.num_candidates * (max(validation.values()) + FLAGS.max_repairs)
    rounds = 0 if FLAGS.trajectories else FLAGS.num_rounds * FLAGS.trajectories_per_round * FLAGS.num_turns
    finalists = (3 if FLAGS.evaluate_before else 2) * (1 + len(FLAGS.eval_after_turns))
    return {
        "seed workflows": seeds,
        "searches before and after": searches * len(evaluated) * developed,
        "training rounds": rounds * developed,
        "closing test evaluation": finalists * sum(tasks[name].split_sizes()[Split.TEST] for name in evaluated),
    }


def runs_of_optimize(tasks: Mapping[str, SealedTask]) -> dict[str, int]:
    """Most item runs of a search on each task, by phase."""
    validation = {name: len(task.items(Split.VALIDATION)) for name, task in tasks.items()}
    seeds = sum(validation[name] * len(task.seed_workflows()) for name, task in tasks.items())
    developed = sum(FLAGS.num_candidates * (size + FLAGS.max_repairs) for size in validation.values())
    runs = {"seed workflows": seeds, "search": FLAGS.num_turns * developed}
    if FLAGS.test:
        runs["closing test evaluation"] = 2 * sum(task.split_sizes()[Split.TEST] for task in tasks.values())
    return runs


def worst_case(runs: Mapping[str, int], meta_agent: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Calls, tokens and USD that so many item runs cost at most.

    Args:
        runs: item runs by phase.
        meta_agent: calls of models behind an API that write workflows, by model.

    Raises:
        InputError: an unknown price.
    """
    calls = sum(runs.values()) * FLAGS.max_calls_per_item
    usage = Usage(prompt_tokens=calls * PROMPT_TOKENS, completion_tokens=calls * FLAGS.executor_max_tokens)
    price = make_prices().of(FLAGS.executor_model, simulated=FLAGS.executor == "simulated")
    writing = [_writing(model, count) for model, count in (meta_agent or {}).items()]
    return {
        "meta_agent": writing,
        "item_runs": dict(runs),
        "calls": calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": price.usd(usage),
        "usd_guess": sum(runs.values()) * _GUESSED_CALLS * price.usd(_GUESSED),
        "usd_with_meta_agent": price.usd(usage) + sum(part["usd"] for part in writing),
        "budget_usd": read_budget_usd(FLAGS.budget_usd),
    }


def _writing(model: str, calls: int) -> dict[str, Any]:
    """The worst case of a meta-agent behind an API."""
    usage = Usage(prompt_tokens=calls * META_PROMPT_TOKENS, completion_tokens=calls * FLAGS.max_new_tokens)
    return {
        "model": model,
        "calls": calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": make_prices().of(model).usd(usage),
    }


def spelled(case: dict[str, Any]) -> str:
    """The worst case as people read it."""
    lines = ["Worst case, if every workflow makes every call it may (nothing was sent):"]
    lines += [f"  {name:<28} {count:>12,} item runs" for name, count in case["item_runs"].items()]
    lines += [
        f"  {'calls':<28} {case['calls']:>12,}  ({FLAGS.max_calls_per_item} an item run, --max_calls_per_item)",
        f"  {'prompt tokens':<28} {case['prompt_tokens']:>12,}  ({PROMPT_TOKENS} a call is an assumption)",
        f"  {'completion tokens':<28} {case['completion_tokens']:>12,}  "
        f"({FLAGS.executor_max_tokens} a call, --executor_max_tokens)",
        f"  {'USD':<28} {case['usd']:>12,.2f}"
        + ("  (simulated)" if FLAGS.executor == "simulated" else "  by list price"),
        *(
            f"  {'meta-agent ' + part['model']:<28} {part['calls']:>12,}  calls, {part['usd']:,.2f} USD by list price "
            f"({META_PROMPT_TOKENS} prompt tokens a call is an assumption, {FLAGS.max_new_tokens} new ones at most)"
            for part in case["meta_agent"]
        ),
        f"  {'a guess instead, USD':<28} {case['usd_guess']:>12,.2f}  (3 calls an item run, 500 + 300 tokens each)",
        "Attempts that fail and may have been billed come on top: how many, only the service knows.",
    ]
    cap = case["budget_usd"]
    if cap is not None and math.isfinite(cap):
        lines.append(f"Never more than --budget_usd={cap:g} is spent: a call that could pass it is not sent.")
    return "\n".join(lines)
