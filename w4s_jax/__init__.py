"""Trains a small language model to write workflows for a strong one (W4S, arXiv 2504.04785)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w4s_jax.runtime import load_workflow

__all__ = ["load_workflow"]


def __getattr__(name: str) -> Any:
    """Finds `load_workflow`; whoever does not ask for it does not pay for its import."""
    if name == "load_workflow":
        from w4s_jax import runtime

        return runtime.load_workflow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
