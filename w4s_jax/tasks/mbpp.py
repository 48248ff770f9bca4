"""Functions to write, graded by assertions: MBPP.

hub rows of all splits → public test, all tests → **items** → sandbox → Grade

Source: arXiv 2108.07732, the sanitized 427 problems; AFlow's sizes (86 validation, 341
test) with our membership. A workflow sees the function's first line and the first
assertion; the others are hidden, and all of them are graded.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from typing import Any

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant
from w4s_jax.tasks.scoring.code import TestsGrader
from w4s_jax.tasks.source import HubSource, Row, Rows
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Item
from w4s_jax.workflows import seeds_for

_MBPP = HubSource(name="mbpp", hub_id="google-research-datasets/mbpp", config="sanitized")
_HUB_SPLITS = ("train", "test", "validation", "prompt")


def load_mbpp(variant: str, options: TaskOptions) -> ItemTask:
    """427 short Python functions to write from a sentence and an example; pass@1.

    Raises:
        InputError: A variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("mbpp", variant)
    read = _read(options)
    items = [_item(index, row) for index, row in enumerate(row for part in read.values() for row in part.rows)]
    cut = split_pool("mbpp", items, seed=options.split_seed, sizes=options.sizes)
    grader = TestsGrader()
    return ItemTask(
        name="mbpp",
        description=(
            "Write the Python function that a sentence, its first line and one test describe. "
            "The answer is the source code of the whole function, with its imports; hidden tests run it."
        ),
        splits=cut.items,
        grader=grader,
        rule=grader.rule,
        seeds=seeds_for("code"),
        metric="pass@1",
        source=f"{next(iter(read.values())).origin}, splits {'+'.join(read)} as one, {cut.how}",
    )


def _read(options: TaskOptions) -> dict[str, Rows]:
    """The hub's splits, or those that have a local file."""
    local = [split for split in _HUB_SPLITS if _MBPP.find_file(split, options.data_dir)]
    return {split: _MBPP.read(split, options.data_dir, options.revision) for split in local or _HUB_SPLITS}


def _item(index: int, row: Row) -> Item:
    code = row.text("code").replace("\r\n", "\n")
    tests = _tests(row)
    function = _function(row, code, tests)
    signature = f"def {function.name}({ast.unparse(function.args)}):"
    setup = _setup(row)
    public = tests[:1] if len(tests) > 1 else []
    number = row.values.get("task_id")
    return Item(
        id=f"mbpp/{index if number is None else number}",
        question="\n\n".join(
            [
                row.text("text" if "text" in row.values else "prompt").strip(),
                f"The function begins with\n{signature}",
                *(f"It has to pass\n{test}" for test in public),
            ]
        ),
        target={"tests": tests, "setup": setup},
        entry_point=function.name,
        public_tests=tuple(f"{setup}\n{test}" if setup else test for test in public),
        metadata={"program": code},
    )


def _tests(row: Row) -> list[str]:
    tests = row.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise row.error(f"field 'test_list' is {repr(tests)[:60]}; it must be a list of assertions")
    if not all(isinstance(test, str) and test.strip() for test in tests):
        raise row.error("field 'test_list' holds something else than texts; it must be a list of assertions")
    return [test.replace("\r\n", "\n").strip() for test in tests]


def _setup(row: Row) -> str:
    """What runs before the tests: the sanitized set's imports, or the full set's code."""
    imports: Any = row.values.get("test_imports", row.values.get("test_setup_code"))
    lines = [imports] if isinstance(imports, str) else list(imports or ())
    return "\n".join(str(line) for line in lines).replace("\r\n", "\n").strip()


def _function(row: Row, code: str, tests: Sequence[str]) -> ast.FunctionDef:
    """The function that the gold program defines and every assertion calls."""
    defined = {node.name: node for node in _parsed(row, "code", code).body if isinstance(node, ast.FunctionDef)}
    called = [_calls(_parsed(row, "test_list", test)) for test in tests]
    names = [name for name in called[0] if name in defined and all(name in calls for calls in called)]
    if not names:
        raise row.error(f"field 'code' defines {sorted(defined)}; none is called by every assertion of 'test_list'")
    return defined[names[0]]


def _calls(tree: ast.Module) -> list[str]:
    """Names of the functions that are called, outer ones first."""
    return [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]


def _parsed(row: Row, field: str, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of backslashes in the gold programs' patterns.
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise row.error(f"field {field!r} is no Python ({error}); correct it") from error
