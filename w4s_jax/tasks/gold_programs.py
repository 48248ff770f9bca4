"""Programs that compute a gold answer, read out of a solution.

solution with `<<a=b>>` annotations → **annotated_program** → Item.metadata["program"]

GSM8K (arXiv 2110.14168) annotates each step of its solutions for a calculator. The
simulated executor shows such a program where it is asked for code.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

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
