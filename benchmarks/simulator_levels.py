"""How far hand-made workflows get on the toy families: `python -m benchmarks.simulator_levels`.

recipes of `workflows/grammar.py` → sandbox ⇄ simulated executor → **the table of docs/simulator.md**

Starts from the chain-of-thought recipe and adds the best single edit as long as one
helps, on the very items it reports, so the last column is optimistic. Simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

from w4s_jax.executor.budget import Budget, Caps
from w4s_jax.executor.ledger import CallStore
from w4s_jax.executor.metered import MeteredExecutor
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.rollout.evaluate import EvaluationOptions, Evaluator
from w4s_jax.sandbox import open_sandbox
from w4s_jax.tasks.base import ItemTask
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.tasks.toy import FAMILIES, toy_task
from w4s_jax.types import Purpose, Split, Workflow
from w4s_jax.workflows.grammar import JUNK, Extract, Instruction, Pick, Recipe, Style, add, write


def edits(recipe: Recipe, code_task: bool) -> dict[str, Recipe]:
    """Every single edit by name."""
    found = {i.name.lower(): add(recipe, i) for i in Instruction if i not in JUNK and i not in recipe.instructions}
    found["plan"] = dataclasses.replace(recipe, style=Style.PLAN)
    found["vote of 5"] = dataclasses.replace(recipe, samples=5, temperature=0.5, pick=Pick.VOTE)
    found["critique"] = dataclasses.replace(recipe, critiques=1)
    if code_task:
        found["tests"] = dataclasses.replace(recipe, tests=2)
    else:
        found["direct"] = dataclasses.replace(recipe, style=Style.DIRECT)
        found["program"] = dataclasses.replace(recipe, style=Style.PROGRAM, extract=Extract.RUN, ending=False)
    return {name: edited for name, edited in found.items() if edited != recipe}


async def accuracy(evaluator: Evaluator, task: ItemTask, recipe: Recipe) -> float:
    """Accuracy of a recipe on the task's test items; nothing here is trained or selected for."""
    workflow = Workflow(name="recipe", code=write(recipe))
    items = task.items(Split.TEST)
    evaluation = await evaluator.evaluate(workflow, task, items, split=Split.TEST, purpose=Purpose.TEST)
    return evaluation.accuracy


async def row(evaluator: Evaluator, task: ItemTask, code_task: bool) -> str:
    """One family's line."""
    extract = Extract.BLOCK if code_task else Extract.NUMBER
    cot = Recipe(style=Style.STEPS, extract=extract, ending=not code_task)
    bare = dataclasses.replace(cot, style=Style.FUNCTION if code_task else Style.DIRECT, ending=False)
    current = await accuracy(evaluator, task, cot)
    cells = [f"`{task.name}`", f"{await accuracy(evaluator, task, bare):.2f}", f"{current:.2f}"]
    recipe, steps, first = cot, [], ""
    while True:
        tried = edits(recipe, code_task)
        values = dict(
            zip(tried, await asyncio.gather(*(accuracy(evaluator, task, r) for r in tried.values())), strict=True)
        )
        if not steps:
            first = ", ".join(
                f"{n} {values[n] - current:+.2f}" for n in sorted(values, key=values.get, reverse=True)[:3]
            )
        name = max(values, key=values.get)
        if values[name] <= current + 0.01 or len(steps) == 6:
            break
        recipe, current, steps = tried[name], values[name], [*steps, name]
    return "| " + " | ".join([*cells, first, ", ".join(steps), f"{current:.2f}"]) + " |"


async def measure(names: list[str], items: int) -> None:
    """Prints the table."""
    tasks = {name: toy_task(name, sizes=SplitSizes(train=0, validation=0, test=items)) for name in names}
    print(
        "| family | direct | cot | best single edits of cot | edits that a greedy search adds | accuracy |\n"
        + "|---" * 6
        + "|"
    )
    with TemporaryDirectory() as folder:
        store = CallStore(Path(folder) / "calls.sqlite")
        async with (
            MeteredExecutor(SimulatedBackend(tasks=tasks.values()), store, Budget(Caps())) as executor,
            open_sandbox() as sandbox,
        ):
            evaluator = Evaluator(executor, sandbox, options=EvaluationOptions(concurrency=64))
            for name, task in tasks.items():
                print(await row(evaluator, task, not FAMILIES[name].templates), flush=True)
        await store.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--items", type=int, default=100)
    given = parser.parse_args()
    asyncio.run(measure(given.families.split(","), given.items))


if __name__ == "__main__":
    main()
