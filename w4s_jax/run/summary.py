"""The close of a run: `summary.json` for programs and a short table for people.

results, ledger → **summary.json, printed summary**
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.executor.ledger import Summary
from w4s_jax.run.closing import Result, as_json, labelled, metric_of, paired_gain, pooled
from w4s_jax.types import Purpose

SUMMARY_SCHEMA_VERSION = 2
"""Of `summary.json`; version 1 said `validation_accuracy` for the mean of the task's own metric."""

SIMULATED = (
    "Simulated executor: simulator, toy tasks and warm start have the same authors. This shows that the machinery\n"
    "learns; it says nothing about real models and reproduces no result of the paper."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths:
    """Where a run's results lie."""

    best_workflow: Path
    checkpoint: str
    hf_export: Path
    report: Path

    def as_json(self) -> dict[str, str]:
        """Each as text."""
        return {name: str(path) for name, path in dataclasses.asdict(self).items()}


def summary_json(
    results: Sequence[Result],
    rounds: Sequence[Mapping[str, Any]],
    ledger: Summary,
    *,
    seconds: float,
    simulated: bool,
    paths: Paths,
) -> dict[str, Any]:
    """The keys of `summary.json`: results by label, pooled and by task, paired gains, rounds, what was spent, paths."""
    labels = dict.fromkeys(result.finalist.label for result in results)
    found: dict[str, Any] = {label: as_json(labelled(results, label)) for label in labels}
    gains = {}
    for first, second in (("before", "after"), ("seeds", "after")):
        gain = paired_gain(labelled(results, first), labelled(results, second))
        if gain is not None and gain.n > 1:
            gains[f"{first}_to_{second}"] = {"difference": gain.value, "n": gain.n, "ci95": [gain.low, gain.high]}
    return found | {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "gains": gains,
        "mean_reward": [r["mean_reward"] for r in rounds],
        "rounds": list(rounds),
        **spent_json(ledger),
        "seconds": seconds,
        "simulated": simulated,
        **paths.as_json(),
    }


def spent_json(ledger: Summary) -> dict[str, Any]:
    """What a run has spent, as every summary spells it."""
    purposes = {purpose: ledger.by_purpose.get(purpose.value) for purpose in Purpose}
    return {
        "usd": round(ledger.total.usd, 9),
        "usd_by": {str(p): round(totals.usd, 9) if totals else 0.0 for p, totals in purposes.items()},
        "calls": ledger.total.calls,
        "cache_hits": ledger.cache_hits,
        "faults": ledger.faults,
        "prompt_tokens": ledger.total.prompt_tokens,
        "completion_tokens": ledger.total.completion_tokens,
    }


SIMULATED_EXECUTOR = "The executor is simulated: this says nothing about a real model."

_TITLES = {
    "seeds": "best seed workflow",
    "before": "meta-agent before RLAO",
    "after": "meta-agent after RLAO",
}


def format_summary(results: Sequence[Result], summary: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """The summary as people read it."""
    metric = metric_of(results)
    named = "accuracy" if metric == "accuracy" else f"mean {metric}"
    lines = ["", f"Test {named} on {', '.join(tasks)} (95 % interval over items)"]
    for label in dict.fromkeys(result.finalist.label for result in results):
        stem, _, turns = label.partition("_")
        title = _TITLES[stem] + (f", {turns} turns" if turns else "")
        lines.append(f"  {title:<34} {pooled(labelled(results, label))}")
    gain = summary["gains"].get("before_to_after")
    if gain:
        low, high = gain["ci95"]
        lines.append(f"  {'gain, paired by item':<34} {gain['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
    if summary["mean_reward"]:
        lines.append("Mean reward a round: " + "  ".join(f"{reward:.2f}" for reward in summary["mean_reward"]))
    lines.append(format_spent(summary))
    shown = {"best workflow": "best_workflow", "checkpoint": "checkpoint", "Hugging Face export": "hf_export"}
    lines += format_paths(summary, shown | {"report": "report"})
    if summary["simulated"]:
        lines += ["", SIMULATED]
    return "\n".join(lines)


def format_spent(summary: Mapping[str, Any]) -> str:
    """Calls, tokens, USD and time in one line; a meta-agent behind an API is paid in real ones."""
    wrote = summary["usd_by"]["meta_agent"]
    usd, kind = summary["usd"], "USD"
    if summary["simulated"]:
        usd, kind = usd - wrote, "simulated USD"
    beside = " and" if summary["simulated"] else ", of them"
    return (
        f"Executor: {summary['calls']} calls, {summary['prompt_tokens']} + {summary['completion_tokens']} tokens, "
        f"{usd:.4f} {kind}{f'{beside} {wrote:.4f} USD by the meta-agent' if wrote else ''}, "
        f"{summary['seconds']:.0f} s in all"
    )


def format_paths(summary: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """A line for each result, by its title."""
    return [f"  {title:<20} {_short(summary[key])}" for title, key in keys.items()]


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
