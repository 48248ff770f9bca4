"""The sections of a run's page.

RunRecord → findings → **sections** → page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from w4s_jax.reports import findings
from w4s_jax.reports.findings import Finalist
from w4s_jax.reports.intervals import Estimate
from w4s_jax.reports.markup import Child, Markup, joined, tag
from w4s_jax.reports.plots import Mark, axis, legend_of, track
from w4s_jax.reports.record import Phase, RunRecord, validation_score
from w4s_jax.reports.tables import NONE, counted, facts, folded, interval, of, table, usd

SIMULATED = (
    "The executor was a simulation. Simulator, tasks and warm start have the same authors: these numbers show that "
    "the machinery learns, nothing about real models, and reproduce no result of the paper."
)
SIMULATED_SEARCH = "The executor was a simulation: these numbers say nothing about a real model."
OPTIMISTIC = "A validation score of a chosen workflow is the maximum of many and optimistic."


def section(title: str, *content: Child, id_: str) -> Markup:
    """A titled part that can be jumped to."""
    return tag("section", tag("h2", title), *content, id=id_)


# --- what was run ----------------------------------------------------------------


def header(run: RunRecord) -> Markup:
    """Who was run on what, whether it is simulated, what is missing, and how to run it again."""
    note = SIMULATED_SEARCH if "strategy" in run.flags else SIMULATED
    badge = tag("p", tag("b", "Simulated", class_="badge"), " ", note, class_="simulated") if run.simulated else None
    missing = None
    if run.missing:
        title = "This run is not finished" if not run.summary else "Not everything is there"
        missing = tag(
            "aside", tag("b", title), tag("ul", [tag("li", line) for line in (*run.missing, *_collected(run))])
        )
    return joined(tag("h1", run.name), badge, missing, facts(_about(run)), _again(run))


def _about(run: RunRecord) -> list[tuple[str, Child]]:
    flags, versions = run.flags, run.versions
    evaluated = flags.get("eval_task") or flags.get("task", "")
    if "strategy" in flags:
        on: list[tuple[str, Child]] = [
            ("Searched on", _list(flags.get("task", NONE))),
            ("Strategy", flags["strategy"]),
            ("Ended", "; ".join(_ending(*search) for search in run.summary.get("searches", {}).items()) or NONE),
            ("Best workflow", str(run.summary.get("best_workflow", NONE))),
        ]
    else:
        on = [
            ("Trained on", _list(flags.get("trajectories") or flags.get("task", NONE))),
            ("Evaluated on", _list(evaluated or NONE)),
        ]
    pairs: list[tuple[str, Child]] = [
        ("Meta-agent", str(versions.get("meta_agent", {}).get("name") or flags.get("meta_agent", NONE))),
        ("Executor", str(versions.get("executor") or flags.get("executor_model", NONE))),
        ("Sandbox", str(versions.get("sandbox") or flags.get("sandbox", NONE))),
        *on,
        ("Search", " × ".join(f"{flags[n]} {t}" for n, t in _SEARCH if n in flags) or NONE),
        (
            ", ".join(n for n in _DRAWN if n in flags).capitalize(),
            ", ".join(flags[n] for n in _DRAWN if n in flags) or NONE,
        ),
    ]
    return [pair for pair in pairs if pair[1] != NONE]


_DRAWN = ("reward", "tau", "seed")
_MOST_NAMES = 6
_SEARCH = (("num_turns", "turns"), ("num_candidates", "candidates"))


def _ending(task: str, search: Mapping[str, Any]) -> str:
    """Why the search on a task ended, e.g. `toy_units: turns`."""
    return f"{task}: {search.get('stopped_by') or 'not yet'}"


def _list(names: str) -> str:
    """The first names of a list; the flags below hold them all."""
    every = names.split(",")
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(every[:_MOST_NAMES]) + more


def _again(run: RunRecord) -> Markup | None:
    if not run.flag_lines and not run.versions:
        return None
    packages = ", ".join(f"{k} {v}" for k, v in run.versions.get("packages", {}).items())
    agent = run.versions.get("meta_agent", {})
    pairs: list[tuple[str, Child]] = [
        ("Python", str(run.versions.get("python", NONE))),
        ("Platform", str(run.versions.get("platform", NONE))),
        ("Packages", packages or NONE),
        ("Commit", str(run.versions.get("commit") or NONE)),
        *((f"Meta-agent {key.replace('_', ' ')}", str(value)) for key, value in agent.items() if key != "name"),
        *(
            (f"Split {task}, {s}", str(h))
            for task, hashes in run.versions.get("split_sha256", {}).items()
            for s, h in hashes.items()
        ),
    ]
    flags = "\n".join(run.flag_lines)
    note = tag("p", "As a flag file, with another --run_dir, these run it again.", class_="note")
    return joined(
        folded("Flags (run.flags)", note, tag("pre", flags)) if flags else None,
        folded("Versions and hashes", facts(pairs)) if run.versions else None,
    )


def _collected(run: RunRecord) -> list[str]:
    """What there is of a run that did not finish."""
    if run.summary:
        return []
    return [
        f"Collected so far, {phase}: {counted(len(some), 'trajectory', 'trajectories')} "
        f"with {counted(sum(len(t.turns) for t in some), 'finished turn')}."
        for phase in Phase
        if (some := run.of(phase))
    ]


# --- headline ---------------------------------------------------------------------


def headline(run: RunRecord) -> Markup | None:
    """Test results of the finalists, pooled and by task, and the paired gain."""
    found = findings.finalists(run.summary)
    if not found:
        return None
    main = [f for f in found if f.label == f.stem] or found
    return joined(
        tag("div", [_big(f) for f in main], [_gain(title, g) for title, g in gains(run.summary)], class_="hero"),
        tag("h3", "All tasks"),
        forest([(f.title, [_mark(f, f.pooled)]) for f in found], "Workflow of", [""]),
        tag("p", "Test items were opened once, after every choice was made on validation items. "
            f"{_method(run.summary)}", class_="note"),
        tag("h3", "By task"),
        legend_of([(f.stem, f.title) for f in main]),
        forest(_by_task(main), "Task", [f.title for f in main]),
        folded("Chosen workflows, validation and test", _chosen(found), tag("p", OPTIMISTIC, class_="note")),
    )  # fmt: skip


def gains(summary: Any) -> list[tuple[str, Estimate]]:
    """Paired differences of test results, that of before and after first."""
    return [
        (key.replace("_", " "), findings.estimate(value, "difference"))
        for key, value in summary.get("gains", {}).items()
    ]


def _big(finalist: Finalist) -> Markup:
    e = finalist.pooled
    return tag(
        "div", tag("b", f"{e.value:.3f}"), tag("span", finalist.title),
        tag("small", f"95\u00a0% {interval(e)}, {of(e.n)}"), class_=finalist.stem,
    )  # fmt: skip


def _gain(title: str, gain: Estimate) -> Markup:
    small = f"95\u00a0% {interval(gain, signed=True)}, {of(gain.n)}"
    return tag(
        "div",
        tag("b", f"{gain.value:+.3f}"),
        tag("span", f"Gain, {title}, paired by item"),
        tag("small", small),
        class_="gain",
    )


def _mark(finalist: Finalist, estimate: Estimate) -> Mark:
    return Mark(finalist.stem, finalist.title, estimate)


def _by_task(found: Sequence[Finalist]) -> list[tuple[str, list[Mark]]]:
    tasks = sorted({task for f in found for task in f.by_task})
    return [(task, [_mark(f, f.by_task[task]) for f in found if task in f.by_task]) for task in tasks]


def forest(rows: Sequence[tuple[str, Sequence[Mark]]], name: str, titles: Sequence[str]) -> Markup:
    """A table with a dot-and-interval plot in every row.

    Args:
        rows: A name and its estimates, drawn together.
        name: Title of the first column.
        titles: Of the columns of numbers; an estimate stands in the column of its title, or, if there
            is one column alone, in that.
    """
    body = []
    for row_name, marks in rows:
        cells = []
        for title in titles:
            mark = next((m for m in marks if len(titles) == 1 or m.title == title), None)
            cells.append(tag("td", _numbers(mark), data_label=title or None))
        body.append(tag("tr", tag("th", row_name, scope="row"), tag("td", track(marks), class_="plot"), cells))
    head = tag("tr", tag("th", name, scope="col"), tag("th", axis(), scope="col", class_="plot"),
               [tag("th", title or "Test", scope="col") for title in titles])  # fmt: skip
    return tag("table", tag("thead", head), tag("tbody", body), class_="forest" if len(titles) > 1 else "forest one")


def _numbers(mark: Mark | None) -> Markup:
    if mark is None:
        return joined(NONE)
    e = mark.estimate
    return joined(tag("b", f"{e.value:.3f}"), " ", tag("small", f"{interval(e)} {of(e.n)}"))


def _method(summary: Any) -> str:
    methods = {v["ci_method"] for v in summary.values() if isinstance(v, dict) and "ci_method" in v}
    return f"Intervals: {'; '.join(sorted(methods))}." if methods else ""


def _chosen(found: Sequence[Finalist]) -> Markup:
    rows = [
        [task, f.title, *_chosen_cells(details, f.by_task[task])] for f in found for task, details in f.details.items()
    ]
    return table(
        ["Task", "Of", "Workflow", "Metric", "Validation", "Test", "USD a question"], sorted(rows), class_="numbers"
    )


def _chosen_cells(details: Mapping[str, Any], test: Estimate) -> list[Child]:
    validation, cost = validation_score(details), details.get("usd_per_item")
    return [
        tag("span", str(details.get("workflow", NONE)), class_="long"),
        str(details.get("metric", "accuracy")),
        NONE if validation is None else f"{validation:.3f} ({of(details.get('validation_n', 0))})",
        f"{test.value:.3f} ({of(test.n)})",
        NONE if cost is None else usd(cost),
    ]
