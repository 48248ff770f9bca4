"""Finds the Python workflow that gets the most out of a strong model, and trains who writes it (W4S, arXiv 2504.04785).

Example:
    >>> import w4s_jax
    >>> result = w4s_jax.optimize(data="questions.csv", metric="numeric", executor="gpt-4o-mini",
    ...                           meta_agent="gpt-4o", budget_usd=2.0)  # doctest: +SKIP
    >>> print(result.best.code, result.best.score, result.best.interval)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w4s_jax.run.api import aevaluate, aoptimize, evaluate, optimize, rlao
    from w4s_jax.run.callbacks import Callback
    from w4s_jax.run.config import RunConfig
    from w4s_jax.run.endpoints import Model, Simulated
    from w4s_jax.run.results import EvaluateResult, OptimizedWorkflow, OptimizeResult
    from w4s_jax.runtime import WorkflowError, load_workflow
    from w4s_jax.types import (
        BudgetExceededError,
        CheckpointError,
        ExecutorError,
        InputError,
        SandboxError,
        StoreError,
        W4sError,
    )

_FOUND_IN = {
    "aevaluate": "run.api",
    "aoptimize": "run.api",
    "evaluate": "run.api",
    "optimize": "run.api",
    "rlao": "run.api",
    "Callback": "run.callbacks",
    "RunConfig": "run.config",
    "Model": "run.endpoints",
    "Simulated": "run.endpoints",
    "EvaluateResult": "run.results",
    "OptimizeResult": "run.results",
    "OptimizedWorkflow": "run.results",
    "WorkflowError": "runtime",
    "load_workflow": "runtime",
    "BudgetExceededError": "types",
    "CheckpointError": "types",
    "ExecutorError": "types",
    "InputError": "types",
    "SandboxError": "types",
    "StoreError": "types",
    "W4sError": "types",
}
"""Public names by module; whoever does not ask for one does not pay for its import."""

__all__ = [
    "BudgetExceededError",
    "Callback",
    "CheckpointError",
    "EvaluateResult",
    "ExecutorError",
    "InputError",
    "Model",
    "OptimizeResult",
    "OptimizedWorkflow",
    "RunConfig",
    "SandboxError",
    "Simulated",
    "StoreError",
    "W4sError",
    "WorkflowError",
    "aevaluate",
    "aoptimize",
    "evaluate",
    "load_workflow",
    "optimize",
    "rlao",
]


def __getattr__(name: str) -> Any:
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"w4s_jax.{_FOUND_IN[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
