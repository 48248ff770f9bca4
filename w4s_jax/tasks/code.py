"""Functions to write, graded by hidden tests: HumanEval.

hub rows → **items** → workflow's program → **sandbox.run_program** → Grade

Source: arXiv 2107.03374; sizes of AFlow (33 validation, 131 test) with our
membership. The question is the prompt itself, the public tests are the examples
of its docstring that read as a call with a literal result, and the hidden tests stay in the
parent until they run, with the answer, in a sandboxed child.

Departures: the answer may be the whole function, behind the prompt's imports and
helpers, or only the rest of its body; the tests see what it returns as plain data,
see `scoring/code.py`.
"""

from __future__ import annotations

import ast
import doctest
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant
from w4s_jax.tasks.scoring.code import (
    PASS_AT_1,
    CodeSymptom,
    GradingProgram,
    defines,
    harness_program,
    is_empty,
    run_graded,
)
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Grade, Item, Sandbox
from w4s_jax.workflows import seeds_for

_HUMANEVAL = HubSource(name="humaneval", hub_id="openai/openai_humaneval")

_EQUALS = re.compile(r"(?<=\))\s*(?:==|=>|->|➞|=|should return|should equal to|returns)\s*")
"""What stands between a call and its result in a docstring."""

_LEAVES = re.compile(r"^(?:return|yield)\b", re.MULTILINE)
"""A statement that stands in functions only."""


def load_humaneval(variant: str, options: TaskOptions) -> ItemTask:
    """164 Python functions to write from their docstrings; pass@1.

    Raises:
        InputError: A variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("humaneval", variant)
    rows, origin = _HUMANEVAL.read("test", options.data_dir, options.revision)
    cut = split_pool("humaneval", [_humaneval_item(row) for row in rows], seed=options.split_seed, sizes=options.sizes)
    return ItemTask(
        name="humaneval",
        description=(
            "Write the Python function that a signature and its docstring describe. "
            "The answer is the source code of the whole function, with its imports; hidden tests run it."
        ),
        splits=cut.items,
        grader=grade_function,
        rule=PASS_AT_1,
        seeds=seeds_for("code"),
        metric="pass@1",
        source=f"{origin}, {cut.how}; no train",
    )


def _humaneval_item(row: Row) -> Item:
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    if not entry_point.isidentifier():
        raise row.error(f"field 'entry_point' is {entry_point!r}; it must be the name of a function")
    return Item(
        id=f"humaneval/{row.text('task_id').rpartition('/')[2]}",
        question=prompt,
        target={"prompt": prompt, "test": row.text("test")},
        entry_point=entry_point,
        public_tests=tuple(public_tests(prompt, entry_point)),
        metadata={"program": prompt + row.text("canonical_solution")},
    )


# --- grading ----------------------------------------------------------------


async def grade_function(item: Item, answer: Any, sandbox: Sandbox) -> Grade:
    """Runs an answer with the hidden tests; 1.0 iff all of them ran and passed.

    Raises:
        SandboxError: The sandbox itself could not run it.
    """
    if is_empty(answer):
        return Grade(0.0, CodeSymptom.EMPTY.value)
    if not defines(answer, item.entry_point or "") and not _is_indented(answer):
        return Grade(0.0, CodeSymptom.NO_FUNCTION.value)
    return await run_graded(grading_program(item, answer), sandbox)


def grading_program(item: Item, answer: str) -> GradingProgram:
    """Returns the program that grades an answer, whole or the rest of the prompt's function.

    The tests run behind a prompt of their own, so that its helpers are not the answer's.
    """
    name, prompt, test = item.entry_point or "", item.target["prompt"], item.target["test"]
    answer = _shifted(answer, name)
    parts = [prompt, answer] if defines(answer, name) else [prompt + answer]
    return harness_program(item, parts, setup=prompt, tests=[test, f"check({name})"], name=name)


def _shifted(answer: str, name: str) -> str:
    """A whole function that stands indented, moved to the left; any other answer as it is."""
    moved = textwrap.dedent(answer) if _is_indented(answer) else answer
    return moved if defines(moved, name) and not _LEAVES.search(moved) else answer


def _is_indented(answer: str) -> bool:
    return answer.lstrip("\n").startswith((" ", "\t"))


# --- public tests -----------------------------------------------------------


def public_tests(prompt: str, entry_point: str) -> Iterator[str]:
    r"""Yields assertions from the examples in a function's docstring.

    Read are doctests (`>>> f(1)` with a literal below) and lines such as `f(1) == 2` or
    `f(1) ➞ 2`; other forms, and examples whose result is no literal, are left out.

    Args:
        prompt: Source that ends in the function's docstring.
        entry_point: Name of the function.

    Example:
        >>> list(public_tests("def f(x):\n    '>>> f(1)\\n2'", "f"))
        ['assert f(1) == 2']
    """
    docstring = _docstring(prompt, entry_point)
    seen = set()
    for call, want in [*_doctests(docstring), *_equations(docstring)]:
        if _is_call(call, entry_point) and _is_literal(want) and call not in seen:
            seen.add(call)
            yield f"assert {call} == {want}"


def _docstring(prompt: str, entry_point: str) -> str:
    try:
        functions = [node for node in ast.parse(prompt).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return ""
    return next((ast.get_docstring(f) or "" for f in functions if f.name == entry_point), "")


def _doctests(docstring: str) -> Iterator[tuple[str, str]]:
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # Inconsistent indentation: not written to be run.
        return
    for example in examples:
        yield example.source.strip(), example.want.strip()


def _equations(docstring: str) -> Iterator[tuple[str, str]]:
    for line in docstring.splitlines():
        call, *rest = _EQUALS.split(line, maxsplit=1)
        if rest:
            yield call.strip(), rest[0].strip().rstrip(".")


def _is_call(text: str, name: str) -> bool:
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return False
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name):
        return False
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return all(_is_literal(ast.unparse(argument)) for argument in given)


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError):
        return False
    return True
