"""Word problems with one number as the answer: GSM-Hard, GSM8K, MGSM.

hub rows → **items in the published splits** → numeric grader

Sources: GSM-Hard (PAL, arXiv 2211.10435), GSM8K (arXiv 2110.14168), MGSM (arXiv
2210.03057). `metadata["program"]` is a gold program where the source has one or
where GSM8K's calculator annotations give one that computes the answer.

Departures: GSM-Hard's tolerance is that of W4S (0.1), not of PAL (0.001), and the
ten items that W4S draws into its validation split are drawn by our seed; GSM8K
has AFlow's sizes with our membership; MGSM is split by problem, so that no test
problem stands in validation in another language.
"""

from __future__ import annotations

import ast
import math
import operator
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from w4s_jax.tasks.base import ItemTask, SplitSizes, cut, resize, shuffled
from w4s_jax.tasks.graders import NumericGrader
from w4s_jax.tasks.numbers import parse_number
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.types import InputError, Item, Split
from w4s_jax.workflows import seeds_for

LANGUAGES = {
    "bn": "Bengali",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "ru": "Russian",
    "sw": "Swahili",
    "te": "Telugu",
    "th": "Thai",
    "zh": "Chinese",
}
"""Configurations of MGSM with what the meta-agent is told."""

_GSM_HARD = HubSource(name="gsm_hard", hub_id="reasoning-machines/gsm-hard")
_GSM8K = HubSource(name="gsm8k", hub_id="openai/gsm8k", config="main")

_NEAR = NumericGrader(tolerance=1e-6)


def load_gsm_hard(*, data_dir: Path | None, split_seed: int, sizes: SplitSizes) -> ItemTask:
    """GSM8K problems with large numbers, split as W4S does: 138 / 500 / 491 of 1,319 rows at seed 0.

    The rows are shuffled by the split seed; validation is [0:128] with 10 drawn from [628:828],
    test [128:628], train [828:].

    Raises:
        InputError: no data, a bad row, or sizes that exceed it.
    """
    rows = _GSM_HARD.read("train", data_dir)
    items = [_gsm_hard_item(i, row) for i, row in enumerate(rows)]
    order = shuffled(items, split_seed)
    drawn = random.Random(split_seed).sample(order[628:828], k=min(10, len(order[628:828])))
    splits = {
        Split.VALIDATION: [*order[:128], *drawn],
        Split.TEST: order[128:628],
        Split.TRAIN: order[828:],
    }
    spare = [item for item in order[628:828] if item not in drawn]
    return ItemTask(
        name="gsm_hard",
        description=(
            "Grade-school word problems in which the numbers are large (often above a million) or odd. "
            "The answer is one number; it is right within 0.1 of the gold number."
        ),
        splits=resize(splits, sizes, spare=spare),
        grader=NumericGrader(tolerance=0.1, inclusive=False),
        seeds=seeds_for("math"),
        source=f"{_GSM_HARD.hub_id} train, shuffled by seed {split_seed} and cut as W4S does",
    )


def _gsm_hard_item(index: int, row: Row) -> Item:
    return Item(
        id=f"gsm_hard/{index}",
        question=row.text("input"),
        target=_number(row, "target"),
        metadata={"program": row.text("code").strip()},
    )


def load_gsm8k(*, data_dir: Path | None, split_seed: int, sizes: SplitSizes) -> ItemTask:
    """Grade-school word problems; the hub's test split is cut into 264 validation and 1,055 test items.

    Raises:
        InputError: no data, a bad row, or sizes that exceed it.
    """
    test = [_gsm8k_item("test", i, row) for i, row in enumerate(_GSM8K.read("test", data_dir))]
    splits = cut(shuffled(test, split_seed), validation=264, test=1055)
    rest = splits[Split.TRAIN]
    splits[Split.TRAIN] = [_gsm8k_item("train", i, row) for i, row in enumerate(_GSM8K.read("train", data_dir))]
    return ItemTask(
        name="gsm8k",
        description="Grade-school word problems that take two to eight steps of arithmetic. The answer is one number.",
        splits=resize(splits, sizes, spare=rest),
        grader=_NEAR,
        seeds=seeds_for("math"),
        source=f"{_GSM8K.hub_id} main: test, shuffled by seed {split_seed}, is validation and test; train is train",
    )


def _gsm8k_item(split: str, index: int, row: Row) -> Item:
    solution, mark, final = row.text("answer").rpartition("####")
    target = parse_number(final)
    if not mark or target is None:
        raise row.error("field 'answer' has no number behind ####; end it with `#### 18`")
    program = annotated_program(solution, target)
    return Item(
        id=f"gsm8k/{split}/{index}",
        question=row.text("question"),
        target=target,
        metadata={"program": program} if program else {},
    )


def load_mgsm(languages: Sequence[str], *, data_dir: Path | None, split_seed: int, sizes: SplitSizes) -> ItemTask:
    """GSM8K problems in other languages: of 250 problems 50 are validation, 200 are test.

    A prefix of a split holds as many different problems as it can, its languages in turn.

    Args:
        languages: configurations of MGSM; empty takes all that have a local file, else all eleven.
        data_dir: local files.
        split_seed: of the choice of problems.
        sizes: the sizes asked for.

    Raises:
        InputError: an unknown language, no data, a bad row, or sizes that exceed it.
    """
    chosen = _languages(languages, data_dir)
    by_language = {lang: _mgsm_items(lang, _mgsm_source(lang).read("test", data_dir)) for lang in chosen}
    problems = min(len(items) for items in by_language.values())
    orders = {lang: shuffled(items[:problems], split_seed) for lang, items in by_language.items()}
    held_out = problems // 5
    spoken = ", ".join(LANGUAGES[lang] for lang in chosen)
    return ItemTask(
        name="mgsm" + (":" + "+".join(languages) if languages else ""),
        description=f"Grade-school word problems in {spoken}. The answer is one number.",
        splits=resize(
            {
                Split.VALIDATION: _in_turn([order[:held_out] for order in orders.values()]),
                Split.TEST: _in_turn([order[held_out:] for order in orders.values()]),
            },
            sizes,
        ),
        grader=_NEAR,
        seeds=seeds_for("math"),
        source=f"juletxara/mgsm test in {'+'.join(chosen)}, split by problem with seed {split_seed}; no train",
    )


def _mgsm_source(language: str) -> HubSource:
    return HubSource(
        name="mgsm",
        hub_id="juletxara/mgsm",
        config=language,
        config_in_files=True,
        revision="refs/convert/parquet",
    )


def _languages(languages: Sequence[str], data_dir: Path | None) -> Sequence[str]:
    for language in languages:
        if language not in LANGUAGES:
            raise InputError(f"mgsm language {language!r} is unknown; take some of {', '.join(LANGUAGES)}")
    local = [lang for lang in LANGUAGES if _mgsm_source(lang).find_file("test", data_dir)]
    return tuple(dict.fromkeys(languages)) or local or tuple(LANGUAGES)


def _mgsm_items(language: str, rows: Sequence[Row]) -> list[Item]:
    return [
        Item(id=f"mgsm/{language}/{i}", question=row.text("question"), target=_number(row, "answer_number"))
        for i, row in enumerate(rows)
    ]


def _in_turn(orders: Sequence[Sequence[Item]]) -> list[Item]:
    """Pass by pass over the problems, each problem's language shifted by one a pass."""
    passes = range(len(orders))
    return [orders[(i + shift) % len(orders)][i] for shift in passes for i in range(len(orders[0]))]


def _number(row: Row, field: str) -> float:
    value = parse_number(row.get(field))
    if value is None:
        raise row.error(f"field {field!r} is {row.get(field)!r}; it must be a finite number")
    return value


# --- gold programs ----------------------------------------------------------

_ANNOTATION = re.compile(r"<<([^<>=]+)=[^<>]*>>")
_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def annotated_program(solution: str, target: float) -> str | None:
    """Returns a program made of `<<a=b>>` annotations, or None where they do not compute the target.

    Only numbers, parentheses and + − * / are read; nothing is executed.

    Example:
        >>> print(annotated_program("<<16-3-4=9>>9 eggs, $<<9*2=18>>18", 18.0))
        def solution():
            step_1 = 16-3-4
            step_2 = 9*2
            return step_2
    """
    expressions = [match.strip() for match in _ANNOTATION.findall(solution)]
    values = [_evaluate(expression) for expression in expressions]
    if not values or any(value is None for value in values):
        return None
    if not math.isclose(values[-1] or 0.0, target, rel_tol=1e-9, abs_tol=1e-9):
        return None
    steps = [f"    step_{i} = {expression}" for i, expression in enumerate(expressions, 1)]
    return "\n".join(["def solution():", *steps, f"    return step_{len(steps)}"])


def _evaluate(expression: str) -> float | None:
    """Value of plain arithmetic; None for anything else."""
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError(f"{ast.dump(node)[:60]} is not plain arithmetic")
