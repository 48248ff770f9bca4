"""Run directories as one self-contained HTML page.

run directory → RunRecord → sections → **report.html**

No script, no image, no font and no link leaves the page; a content security policy
in its head makes the browser hold it to that, whatever a model wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from w4s_jax.files import write_whole
from w4s_jax.reports import findings, progress, sections
from w4s_jax.reports.compare import comparison
from w4s_jax.reports.markup import Markup, tag
from w4s_jax.reports.record import RunRecord, read_run
from w4s_jax.reports.trees import trees
from w4s_jax.types import InputError, StoreError

MOST_BYTES = 4_600_000
"""Of a page, about; listings of code are left out beyond it, and the page says so."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` of one run, finished or not, into its directory and returns its path.

    Raises:
        InputError: The folder holds no run.
        StoreError: It cannot be written.
    """
    return write_page([Path(run_dir)], Path(run_dir) / "report.html")


def write_page(run_dirs: Sequence[Path], output: Path) -> Path:
    """Writes one page on several runs, a comparison on top.

    Raises:
        InputError: No folder is given, or one holds no run.
        StoreError: The page cannot be written.
    """
    if not run_dirs:
        raise InputError("run_dirs is empty; name one run directory or more")
    text = page([read_run(run_dir) for run_dir in run_dirs])
    try:
        write_whole(output, text)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}; free space or give another path") from error
    return output


def page(runs: Sequence[RunRecord]) -> str:
    """The whole document."""
    title = f"{', '.join(run.name for run in runs)} · w4s_jax"
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title[:200]), tag("style", _style()),
    )  # fmt: skip
    several = len(runs) > 1
    body = [run_article(run, number, MOST_BYTES // len(runs)) for number, run in enumerate(runs)]
    top = comparison(runs) if several else None
    foot = tag("footer", "Made by w4s_jax, a JAX implementation of Weak-for-Strong Harnessing, arXiv 2504.04785.")
    document = tag("html", head, tag("body", tag("main", top, body, foot)), lang="en")
    return f"<!doctype html>\n{document}\n"


def run_article(run: RunRecord, number: int, most_bytes: int) -> Markup:
    """One run; the trees of its searches take the bytes that the rest leaves."""
    parts = [
        (f"Test {findings.metric(run.summary)}", "test", sections.headline(run)),
        ("Learning curve", "learning", progress.learning(run)),
        ("Score by turn", "turns", progress.turns(run)),
        ("Failures", "failures", progress.failures(run)),
        ("Cost", "cost", progress.cost(run)),
    ]
    used = sum(len((part or "").encode()) for _, _, part in parts) + 50_000
    parts.append(("Searches", "searches", trees(run, most_bytes - used)))
    there = [(title, f"{key}-{number}", part) for title, key, part in parts if part]
    nav = tag("nav", [tag("a", title, href=f"#{id_}") for title, id_, _ in there])
    return tag(
        "article", tag("header", sections.header(run), nav),
        [sections.section(title, part, id_=id_) for title, id_, part in there], id=f"run-{number}",
    )  # fmt: skip


def _style() -> Markup:
    return Markup(resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
