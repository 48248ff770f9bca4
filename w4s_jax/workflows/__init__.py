"""Workflows: Python source with `solver(agent, task)`; the seeds a search starts from.

seed or file → **Workflow** → self-check → Sandbox

Each seed is a plain Python file in `seeds/`, so that it can be read, copied and
started from; none is ever imported here: only the sandbox runs workflows.
"""

from __future__ import annotations

import ast
import difflib
from importlib import resources
from pathlib import Path

from w4s_jax.types import InputError, Workflow

_FAMILIES: dict[str, tuple[str, ...]] = {
    "math": ("cot", "cot_sc", "program", "direct", "self_refine", "debate", "step_back", "role"),
    "code": ("generate", "generate_and_test", "reflect_on_public_tests", "reflect"),
    "qa": ("qa_cot", "qa_cot_sc", "qa_self_refine", "qa_direct", "qa_debate", "qa_step_back", "qa_role"),
    "toy": ("toy_direct", "toy_cot", "toy_vote"),
    "toy_code": ("code_direct", "code_test"),
}
"""Names of all seeds by family of tasks; the first is the first current workflow of a search."""

_STARTING = 3
"""How many of a family, from its first, a search starts from: each is evaluated on validation before it begins."""


def seed_names() -> tuple[str, ...]:
    """Names of all seed workflows."""
    return tuple(name for names in _FAMILIES.values() for name in names)


def load_seed(name: str) -> Workflow:
    """Returns a seed workflow.

    Raises:
        InputError: There is no seed of that name.

    Example:
        >>> "def solver(agent, task)" in load_seed("cot").code
        True
    """
    if name not in seed_names():
        near = difflib.get_close_matches(name, seed_names(), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise InputError(f"seed workflow {name!r} is unknown{hint}; known are {', '.join(seed_names())}")
    return Workflow(name=name, code=(resources.files(__name__) / "seeds" / f"{name}.py").read_text(encoding="utf-8"))


def seeds_for(family: str) -> tuple[Workflow, ...]:
    """Returns the seed workflows that a search on a family of tasks starts from unless it is given others.

    Args:
        family: Of the task: `math`, `code`, `qa`, `toy` or `toy_code`.

    Raises:
        InputError: There is no such family.

    Example:
        >>> [seed.name for seed in seeds_for("math")]
        ['cot', 'cot_sc', 'program']
    """
    return seeds_of(family)[:_STARTING]


def seeds_of(family: str) -> tuple[Workflow, ...]:
    """Returns all seed workflows of a family of tasks; see `seeds_for`.

    Raises:
        InputError: There is no such family.
    """
    if family not in _FAMILIES:
        raise InputError(f"family of tasks {family!r} is unknown; known are {', '.join(_FAMILIES)}")
    return tuple(load_seed(name) for name in _FAMILIES[family])


def load_workflow_file(path: Path) -> Workflow:
    """Returns the workflow of a Python file, named by the file. The file is parsed, not run.

    Raises:
        InputError: It cannot be read, is no Python, or has no `solver` at its top level.
    """
    try:
        code = path.read_text(encoding="utf-8")
        body = ast.parse(code, filename=str(path)).body
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"workflow file {path} cannot be read ({error}); give a UTF-8 Python file") from error
    except SyntaxError as error:
        raise InputError(f"workflow file {path}:{error.lineno}: {error.msg}; correct the Python") from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f"workflow file {path} cannot be parsed ({error}); nest it less deeply") from error
    except ValueError as error:
        raise InputError(f"workflow file {path} is no Python text ({error}); give a UTF-8 Python file") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "solver" for node in body):
        raise InputError(f"workflow file {path} has no solver; define def solver(agent, task) at its top level")
    return Workflow(name=path.stem, code=code)


def load_workflow(name_or_path: str) -> Workflow:
    """Returns a seed by its name, or the workflow of a file by its path, which ends in `.py`.

    Raises:
        InputError: There is neither.
    """
    if name_or_path.endswith(".py"):
        return load_workflow_file(Path(name_or_path))
    if Path(name_or_path).exists() or "/" in name_or_path:
        raise InputError(f"workflow {name_or_path!r} is neither a file whose name ends in .py nor the name of a seed")
    return load_seed(name_or_path)
