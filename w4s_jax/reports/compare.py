"""The table on top of a page of several runs.

RunRecords → **comparison** → page
"""

from __future__ import annotations

from collections.abc import Sequence

from w4s_jax.reports import findings
from w4s_jax.reports.markup import Child, Markup, joined, tag
from w4s_jax.reports.plots import Mark, legend_of
from w4s_jax.reports.record import RunRecord
from w4s_jax.reports.sections import SIMULATED, forest, gains
from w4s_jax.reports.tables import NONE, folded, interval, of, seconds, table, usd


def comparison(runs: Sequence[RunRecord]) -> Markup:
    """What the runs reached and cost, side by side, and whether that may be compared."""
    names = _names(runs)
    found = [[f for f in findings.finalists(run.summary) if f.label == f.stem] for run in runs]
    titles = list(dict.fromkeys(f.title for some in found for f in some))
    rows = [
        (name, [Mark(f.stem, f.title, f.pooled) for f in some]) for name, some in zip(names, found, strict=True) if some
    ]
    stems = {f.title: f.stem for some in found for f in some}
    simulated = [name for name, run in zip(names, runs, strict=True) if run.simulated]
    badge = tag("p", tag("b", "Simulated", class_="badge"), f" {', '.join(simulated)}. {SIMULATED}", class_="simulated")
    nav = tag("nav", [tag("a", name, href=f"#run-{number}") for number, name in enumerate(names)])
    header = tag("header", tag("h1", f"{len(runs)} runs"), badge if simulated else None, _warning(runs), nav)
    legend = legend_of([(stems[title], title) for title in titles])
    reached = tag("section", tag("h2", "Test results"), legend, forest(rows, "Run", titles), _by_task(names, runs))
    spent = table(_HEAD, [_row(name, run) for name, run in zip(names, runs, strict=True)], class_="numbers")
    return tag("article", header, reached if rows else None, tag("section", tag("h2", "Side by side"), spent))


_HEAD = (
    "Run",
    "Meta-agent",
    "Executor",
    "Paired gain, before to after",
    "Last round's reward",
    "Calls",
    "USD",
    "Wall clock",
    "State",
)


def _row(name: str, run: RunRecord) -> list[Child]:
    gain = next((g for title, g in gains(run.summary) if title == "before to after"), None)
    s, spent = run.summary, run.spending
    cost = s.get("usd", sum(row.usd for row in spent.rows) if spent else None)
    calls = s.get("calls", sum(row.calls for row in spent.rows) if spent else None)
    took = s.get("seconds", spent.seconds if spent else None)
    agent = run.versions.get("meta_agent", {}).get("name") or run.flags.get("meta_agent", NONE)
    return [
        name,
        tag("span", str(agent), class_="long"),
        tag("span", str(run.versions.get("executor") or run.flags.get("executor_model", NONE)), class_="long"),
        NONE
        if gain is None
        else joined(tag("b", f"{gain.value:+.3f}"), f" {interval(gain, signed=True)} {of(gain.n)}"),
        f"{run.rounds[-1]['mean_reward']:.3f}" if run.rounds and "mean_reward" in run.rounds[-1] else NONE,
        NONE if calls is None else f"{calls:,}",
        NONE if cost is None else usd(float(cost)) + (" simulated" if run.simulated else ""),
        NONE if took is None else seconds(float(took)),
        "finished" if run.summary else "not finished",
    ]


def _by_task(names: Sequence[str], runs: Sequence[RunRecord]) -> Markup | None:
    """Test result after training by task, a column a run."""
    after = [next((f.by_task for f in findings.finalists(run.summary) if f.label == "after"), {}) for run in runs]
    tasks = sorted({task for estimates in after for task in estimates})
    if not tasks:
        return None
    rows: list[list[Child]] = [
        [task, *(f"{e[task].value:.3f} {interval(e[task])} {of(e[task].n)}" if task in e else NONE for e in after)]
        for task in tasks
    ]
    return folded("After training, by task", table(["Task", *names], rows, class_="numbers"))


def _warning(runs: Sequence[RunRecord]) -> Markup | None:
    """Says where two runs were not tested on the same items by the same executor."""
    tests = {hashes for run in runs if (hashes := _tested(run))}
    executors = {str(run.versions.get("executor")) for run in runs}
    different = [what for what, found in (("test items", tests), ("executors", executors)) if len(found) > 1]
    if not different:
        return None
    return tag(
        "aside", tag("b", "Not directly comparable"), tag("p", f"These runs have different {' and '.join(different)}.")
    )


def _tested(run: RunRecord) -> str:
    """The tasks that were tested, with the hashes of their test splits; empty of a run that tested none."""
    tasks = sorted({task for f in findings.finalists(run.summary) for task in f.by_task})
    splits = run.versions.get("split_sha256", {})
    return ", ".join(f"{task} {splits.get(task, {}).get('test')}" for task in tasks)


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """Names of folders, numbered where two are the same."""
    names = [run.name for run in runs]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
