"""Who runs the coroutine of a run: a command with its signals, a script, a notebook.

run_rlao, run_search, run_evaluation → **Runner** → result
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns its result; decides what signals do meanwhile."""
