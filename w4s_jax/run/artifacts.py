"""The workflow files that a run leaves: plain Python under a header that says what it is.

what was chosen → **workflows/*.py** → user, `w4s_jax.load_workflow`
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from w4s_jax.reports.intervals import share
from w4s_jax.run.directory import RunDirectory
from w4s_jax.types import BINARY_METRICS, Evaluated, Evaluation, TurnKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """A workflow that was chosen for a task."""

    task: str
    evaluated: Evaluated
    test: Evaluation | None = None
    """Of the closing evaluation; None where none was asked for."""
    beside: Chosen | None = None
    """The best seed, to compare with."""


def write_workflows(run: RunDirectory, chosen: Sequence[Chosen], executor_model: str, simulated: bool) -> Path:
    """Writes one file for each, named by its task, and `best.py`: that with the best validation score.

    Of one task, the first is named by the task alone, the others by their number.

    Returns:
        The path of `best.py`.

    Raises:
        StoreError: A file cannot be written.
    """
    stems = file_stems(one.task for one in chosen)
    seen: Counter[str] = Counter()
    for one in chosen:
        seen[one.task] += 1
        number = f"_no{seen[one.task]}" if seen[one.task] > 1 else ""
        path = run.workflows / f"{stems[one.task]}{number}.py"
        run.write(path, workflow_file(one, executor_model, simulated))
    best = max(chosen, key=lambda one: one.evaluated.feedback.score)
    run.write(run.workflows / "best.py", workflow_file(best, executor_model, simulated))
    return run.workflows / "best.py"


def file_stems(tasks: Iterable[str]) -> dict[str, str]:
    """Names of tasks as names of files, different ones; a digest sets those apart that look alike."""
    plain = {task: re.sub(r"\W", "_", task) for task in tasks}
    alike = Counter(plain.values())
    return {
        task: stem if alike[stem] == 1 else f"{stem}_{hashlib.sha256(task.encode()).hexdigest()[:6]}"
        for task, stem in plain.items()
    }


def workflow_file(chosen: Chosen, executor_model: str, simulated: bool) -> str:
    """The code under a header that says what it reached, with whom, and what running it means."""
    feedback, test = chosen.evaluated.feedback, chosen.test
    cost = "simulated USD" if simulated else "USD"
    usd = feedback.usd_per_item if test is None else test.usd_per_item
    written = TurnKey.parse(chosen.evaluated.workflow.name) is not None
    author = "Written by a language model" if written else "A workflow that the search started from"
    lines = [
        f"Workflow {chosen.evaluated.workflow.name} for the task {chosen.task}.",
        "Not evaluated on the test split." if test is None else f"Test {format_test(feedback.metric, test)}.",
        f"Validation {format_validation(chosen.evaluated)}; "
        "chosen as the best of all tried, so this one is optimistic.",
        *([format_seed(chosen.beside)] if written and chosen.beside else []),
        f"Executor: {executor_model}{' (a simulation; says nothing about real models)' if simulated else ''}.",
        f"Cost: {usd:.6f} {cost} a question, our estimate from list prices.",
        f"{author}: outside a sandbox, it can do whatever your account can do.",
        "To run it in one, with any OpenAI-compatible client: w4s_jax.load_workflow(path, client=…, model=…).",
    ]
    header = "\n".join(f"# {line}" for line in lines)
    return f"{header}\n\n{chosen.evaluated.workflow.code.strip()}\n"


def format_seed(seed: Chosen) -> str:
    """What the best seed workflow reached."""
    tested = f", test {format_test(seed.evaluated.feedback.metric, seed.test)}" if seed.test else ""
    return f"The best seed, {seed.evaluated.workflow.name}: validation {format_validation(seed.evaluated)}{tested}."


def format_validation(evaluated: Evaluated) -> str:
    """A validation result: `accuracy 0.450 [0.258, 0.658] n=20`; without interval where items may be partly right."""
    feedback = evaluated.feedback
    if feedback.metric in BINARY_METRICS:
        return f"accuracy {share(round(feedback.accuracy * feedback.n), feedback.n)}"
    return f"mean {feedback.metric} {feedback.score:.3f} n={feedback.n}"


def format_test(metric: str, test: Evaluation) -> str:
    """A test result: `accuracy 0.450 [0.258, 0.658] n=20 (95 % interval)`, and the mean metric where it is another."""
    right = f"accuracy {share(test.num_right, test.n)} (95 % interval)"
    return right if metric in BINARY_METRICS else f"mean {metric} {test.score:.3f}, {right}"
