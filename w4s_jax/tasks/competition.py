r"""Competition problems with LaTeX answers: MATH and MATH-500.

hub rows of each subject → gold answer out of its box → **items** → LaTeX grader

Sources: MATH (arXiv 2103.03874), MATH-500 (its 500 problems that arXiv 2305.20050 held
out). AFlow draws from the 605 problems of level 5 in four subjects, which `math:aflow`
takes; its sizes are used, with our membership.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from w4s_jax.tasks.base import ItemTask, TaskOptions, variant_parts
from w4s_jax.tasks.scoring import latex
from w4s_jax.tasks.source import HubSource, Row, Rows
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Item
from w4s_jax.workflows import seeds_for

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
"""Configurations of MATH."""

LEVELS = ("level1", "level2", "level3", "level4", "level5")

_AFLOW = ("counting_and_probability", "number_theory", "prealgebra", "precalculus", "level5")
_FORM = "Give the final answer in LaTeX."
"""The end of each question."""
_MATH_HUB = "EleutherAI/hendrycks_math"
_MATH_WHOLE = HubSource(name="math", hub_id=_MATH_HUB)
_MATH_500 = HubSource(name="math_500", hub_id="HuggingFaceH4/MATH-500")


class _MathRow(NamedTuple):
    """A row with what variants choose by."""

    row: Row
    subject: str
    level: str
    name: str
    """Unique in its data set."""


def load_math(variant: str, options: TaskOptions) -> ItemTask:
    """The 5,000 test problems of MATH, of all subjects and levels or of some.

    Args:
        variant: Subjects and levels, `algebra+level4+level5`, or `aflow`; empty takes all.
        options: Of the task; a local `math/test.jsonl` holds all subjects, `math/algebra_test.jsonl` one.

    Raises:
        InputError: An unknown variant, no data, a bad row, or sizes that exceed it.
    """
    named = variant_parts("math", variant, (*SUBJECTS, *LEVELS, "aflow"))
    parts = [part for name in named for part in (_AFLOW if name == "aflow" else (name,))]
    chosen = [subject for subject in SUBJECTS if subject in parts] or list(SUBJECTS)
    read = _read_math(chosen, options)
    problems = [problem for subject, rows in read for problem in _problems(rows.rows, subject)]
    return _task(
        "math", variant, _of_parts(problems, parts), f"{read[0][1].origin} in {'+'.join(parts or chosen)}", options
    )


def load_math_500(variant: str, options: TaskOptions) -> ItemTask:
    """500 test problems of MATH; variants as of `load_math`, without `aflow`.

    Raises:
        InputError: An unknown variant, no data, a bad row, or sizes that exceed it.
    """
    parts = variant_parts("math_500", variant, (*SUBJECTS, *LEVELS))
    rows, origin = _MATH_500.read("test", options.data_dir, options.revision)
    return _task("math_500", variant, _of_parts(list(_problems(rows)), parts), origin, options)


def _task(name: str, variant: str, problems: Sequence[_MathRow], origin: str, options: TaskOptions) -> ItemTask:
    cut = split_pool(name, [_item(name, p) for p in problems], seed=options.split_seed, sizes=options.sizes)
    grader = latex.LatexGrader()
    subjects = ", ".join(dict.fromkeys(p.subject.replace("_", " ") for p in problems))
    return ItemTask(
        name=name + (f":{variant}" if variant else ""),
        description=(
            f"Problems of mathematics competitions ({subjects}). The answer is the final result alone, in LaTeX: "
            r"a number, an exact expression such as \frac{3}{4} or 2\sqrt{5}, an interval, a tuple or a short text; "
            "it is right where it is mathematically equal to the gold answer."
        ),
        splits=cut.items,
        grader=grader,
        rule=grader.rule,
        seeds=seeds_for("qa"),
        source=f"{origin}, {cut.how}",
        packages=latex.PACKAGES,
    )


def _item(task: str, problem: _MathRow) -> Item:
    return Item(
        id=f"{task}/{problem.name}",
        question=f"{problem.row.text('problem').strip()}\n\n{_FORM}",
        target=_gold(problem.row),
        metadata={"subject": problem.subject, "level": problem.level},
    )


# --- rows -------------------------------------------------------------------


def _read_math(subjects: Sequence[str], options: TaskOptions) -> list[tuple[str, Rows]]:
    """Rows of each subject, or of all of them under an empty name where one local file holds them."""
    if _MATH_WHOLE.find_file("test", options.data_dir):
        return [("", _MATH_WHOLE.read("test", options.data_dir))]
    return [(name, _math_source(name).read("test", options.data_dir, options.revision)) for name in subjects]


def _math_source(subject: str) -> HubSource:
    return HubSource(name="math", hub_id=_MATH_HUB, config=subject, config_in_files=True)


def _problems(rows: Sequence[Row], subject: str = "") -> Iterator[_MathRow]:
    """Rows with their subject and level, named by their own id, else by their place among those of the subject."""
    seen: Counter[str] = Counter()
    for row in rows:
        own = subject or _subject(row)
        index, level = seen[own], re.search(r"\d", str(row.values.get("level")))
        seen[own] += 1
        name = str(row.values.get("unique_id") or f"{own}/{index}").removesuffix(".json")
        yield _MathRow(row, own, f"level{level[0]}" if level else "", name)


def _subject(row: Row) -> str:
    field = next((field for field in ("type", "subject") if field in row.values), None)
    if field is None:
        raise row.error("fields 'type' and 'subject' are missing; one of them has to name the row's subject")
    spelt = row.text(field)
    subject = re.sub(r"\W+", "_", spelt.lower().replace("&", "and"))
    if subject not in SUBJECTS:
        raise row.error(f"subject {spelt!r} is unknown; it must be one of {', '.join(SUBJECTS)}")
    return subject


def _of_parts(problems: Sequence[_MathRow], parts: Sequence[str]) -> list[_MathRow]:
    """Those of one of the subjects and one of the levels that a variant names; it names none for all."""
    subjects, levels = set(SUBJECTS) & set(parts), set(LEVELS) & set(parts)
    return [p for p in problems if (not subjects or p.subject in subjects) and (not levels or p.level in levels)]


# --- the gold answer --------------------------------------------------------


def _gold(row: Row) -> str:
    """The row's answer, else what its solution boxes last."""
    given = row.values.get("answer")
    answer = "" if given is None else str(given).strip()
    answer = answer or (latex.last_boxed(str(row.values.get("solution") or "")) or "").strip()
    if not answer:
        raise row.error(r"neither field 'answer' nor a \boxed{…} in field 'solution' gives an answer; add one")
    return answer
