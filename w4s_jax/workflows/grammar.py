"""Procedural workflows: recipes of ingredients, written as short plain Python.

recipe → **code** → warm start of the tiny meta-agent, benchmark of ingredients

A `Recipe` names what a workflow does (how it asks, how often, what it does with
the replies); `write` renders it in the style of the toy seeds. `random_recipe`,
`edit` and `break_code` draw recipes, single changes and bugs from a seeded
generator, so that a warm start sees good, odd and broken workflows alike.
`read_ingredients` finds the ingredients of any code by its text, for counting
which ones a meta-agent picks.
"""

from __future__ import annotations

import dataclasses
import enum
import random
import re

ENDING = "End with: Answer: <number>"


class Style(enum.StrEnum):
    """How the question is put."""

    DIRECT = "Give only the final number."
    STEPS = "Think step by step."
    PLAN = "Make a plan first, then solve it."
    PROGRAM = "Write Python code: def solution() that returns the answer."
    FUNCTION = "Write the function."


class Instruction(enum.StrEnum):
    """Sentences that may follow the style; the last three are junk."""

    FACTS = "List the facts you need first."
    UNITS = "Convert all units first."
    WORDING = "State how you read unclear words."
    EDGES = "Consider edge cases."
    CHECK = "Double-check the arithmetic."
    IGNORE = "Ignore irrelevant details."
    EXPERT = "You are a world-class expert."
    IMPORTANT = "This is very important."
    POLITE = "Be polite and friendly."


JUNK = (Instruction.EXPERT, Instruction.IMPORTANT, Instruction.POLITE)


class Extract(enum.StrEnum):
    """What is taken from a reply."""

    RAW = "r"
    NUMBER = "agent.extract_answer_str(r)"
    RUN = "agent.execute_code(agent.extract_code_block(r))"
    BLOCK = "agent.extract_code_block(r)"


class Pick(enum.StrEnum):
    """Which of several answers is given."""

    FIRST = "answers[0]"
    LAST = "answers[-1]"
    VOTE = "max(answers, key=answers.count)"


TEMPERATURES = (0.0, 0.2, 0.5, 0.8, 1.0)
SAMPLES = (1, 3, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The ingredients of one workflow.

    Example:
        >>> "step by step" in write(Recipe(style=Style.STEPS))
        True
    """

    style: Style = Style.STEPS
    instructions: tuple[Instruction, ...] = ()
    ending: bool = False
    """Asks for a marked final answer."""
    temperature: float = 0.0
    samples: int = 1
    """Replies asked for at once."""
    extract: Extract = Extract.NUMBER
    pick: Pick = Pick.FIRST
    critiques: int = 0
    """Rounds in which an earlier answer is criticised and solved again."""
    tests: int = 0
    """Rounds of running the public tests and fixing the function; code tasks only."""


def write(recipe: Recipe) -> str:
    """Spells a recipe as Python source."""
    sentences = [recipe.style.value, *(i.value for i in recipe.instructions)]
    if recipe.ending:
        sentences.append(ENDING)
    lines = [
        f"def solver(agent, task{', entry_point' if recipe.tests else ''}):",
        f'    ask = task + "\\n{" ".join(sentences)}"',
        f"    replies = {_call('ask', recipe.temperature, recipe.samples)}",
    ]
    lines += _critique(recipe) + (_tests(recipe) if recipe.tests else _answers(recipe))
    return "\n".join(lines)


def _call(prompt: str, temperature: float, samples: int) -> str:
    return (
        f'agent.call_llm([{{"role": "user", "content": {prompt}}}], '
        f"temperature={temperature}, num_of_response={samples})"
    )


def _critique(recipe: Recipe) -> list[str]:
    if not recipe.critiques:
        return []
    return [
        f"    for _ in range({recipe.critiques}):",
        '        again = ask + "\\nAnswer so far:\\n" + replies[0] + "\\nFind the mistake and solve it again."',
        f"        replies = {_call('again', recipe.temperature, recipe.samples)}",
    ]


def _tests(recipe: Recipe) -> list[str]:
    return [
        "    code = agent.extract_code_block(replies[0])",
        f"    for _ in range({recipe.tests}):",
        "        test = agent.test_on_public_test(task, code, entry_point, 0)",
        '        if test["result"]:',
        "            break",
        '        fix = ask + "\\nThe tests said:\\n" + test["feedback"] + "\\nFix the function."',
        f"        code = agent.extract_code_block({_call('fix', recipe.temperature, 1)}[0])",
        '    return {"answer": code}',
    ]


def _answers(recipe: Recipe) -> list[str]:
    return [f"    answers = [{recipe.extract.value} for r in replies]", f'    return {{"answer": {recipe.pick.value}}}']


# --- drawing ----------------------------------------------------------------


def random_recipe(rng: random.Random, *, code_task: bool = False) -> Recipe:
    """Draws a recipe; its parts fit one another more often than not."""
    style = rng.choice((Style.FUNCTION, Style.STEPS, Style.PLAN) if code_task else list(Style)[:4])
    count = rng.choices((0, 1, 2, 3), (3, 4, 3, 1))[0]
    samples = rng.choices(SAMPLES, (5, 3, 2))[0]
    return Recipe(
        style=style,
        instructions=_ordered(rng.sample(list(Instruction), count)),
        ending=style is not Style.PROGRAM and not code_task and rng.random() < 0.4,
        temperature=rng.choice(TEMPERATURES),
        samples=samples,
        extract=_random_extract(rng, style, code_task),
        pick=rng.choice(list(Pick)) if samples > 1 else Pick.FIRST,
        critiques=rng.choices((0, 1, 2), (7, 2, 1))[0],
        tests=rng.choices((0, 1, 2, 3), (4, 1, 1, 1))[0] if code_task else 0,
    )


def _random_extract(rng: random.Random, style: Style, code_task: bool) -> Extract:
    natural = Extract.BLOCK if code_task else Extract.RUN if style is Style.PROGRAM else Extract.NUMBER
    return natural if rng.random() < 0.75 else rng.choice(list(Extract))


def _ordered(instructions: list[Instruction]) -> tuple[Instruction, ...]:
    rank = list(Instruction)
    return tuple(sorted(set(instructions), key=rank.index))


def add(recipe: Recipe, instruction: Instruction) -> Recipe:
    """The recipe with one more instruction; the junk goes first where there would be more than three."""
    kept = [i for i in recipe.instructions if i is not instruction]
    while len(kept) > 2:
        kept.remove(next((i for i in kept if i in JUNK), kept[0]))
    return dataclasses.replace(recipe, instructions=_ordered([*kept, instruction]))


def edit(recipe: Recipe, rng: random.Random, *, code_task: bool = False) -> Recipe:
    """Changes one ingredient; never returns the recipe itself."""
    while (edited := _edit(recipe, rng, code_task)) == recipe:
        pass
    return edited


def _edit(recipe: Recipe, rng: random.Random, code_task: bool) -> Recipe:
    other = random_recipe(rng, code_task=code_task)
    kinds = ["style", "style", "add", "add", "add", "drop", "samples", "critiques", "ending"]
    kind = rng.choice([*kinds, "tests", "tests"] if code_task else kinds)
    if kind == "style":
        return dataclasses.replace(recipe, style=other.style, extract=other.extract)
    if kind == "add":
        return add(recipe, rng.choice(list(Instruction)))
    if kind == "drop":
        dropped = rng.choice(recipe.instructions) if recipe.instructions else None
        return dataclasses.replace(recipe, instructions=tuple(i for i in recipe.instructions if i is not dropped))
    if kind == "samples":
        return dataclasses.replace(recipe, samples=other.samples, pick=other.pick, temperature=other.temperature)
    if kind == "ending":
        return dataclasses.replace(recipe, ending=not recipe.ending)
    return dataclasses.replace(recipe, **{kind: getattr(other, kind)})


_BUGS: tuple[tuple[str, str, str], ...] = (
    ("task + ", "", ""),
    ("replies[0]", "reply[0]", "NameError: name 'reply' is not defined"),
    ("in replies]", "in reply]", "NameError: name 'reply' is not defined"),
    ('{"answer": ', '{"answr": ', "solver returned a dict without the key 'answer'"),
    ("answers[0]", "answers[3]", "IndexError: list index out of range"),
    ("answers.count)", "answers.counts)", "AttributeError: 'list' object has no attribute 'counts'"),
    ("agent.call_llm([", "agent.call_lm([", "AttributeError: 'Agent' object has no attribute 'call_lm'"),
    ("agent.call_llm([", "agent.call_llm((", "SyntaxError: closing parenthesis does not match"),
    ("extract_answer_str", "extract_answer", "AttributeError: 'Agent' object has no attribute 'extract_answer'"),
    ("extract_code_block", "extract_code", "AttributeError: 'Agent' object has no attribute 'extract_code'"),
    ("num_of_response=", "num_responses=", "TypeError: Agent.call_llm() got an unexpected keyword argument"),
    ("    return {", "    {", "solver must return a dict with the key 'answer', got NoneType"),
    ("(agent, task", "(task, agent", "TypeError: unsupported operand type(s) for +: 'Agent' and 'str'"),
    ('"]', "]", "SyntaxError: unterminated string literal"),
    ('<number>"', "<number>", "SyntaxError: unterminated string literal"),
)
"""What is replaced, by what, and the error that this gives; empty where it only answers wrongly."""


def break_code(code: str, rng: random.Random) -> tuple[str, str]:
    """Injects one bug that changes the code; returns the code and the error it gives."""
    old, new, error = rng.choice([bug for bug in _BUGS if bug[0] in code])
    return code.replace(old, new, 1), error


# --- reading ----------------------------------------------------------------


def read_ingredients(code: str) -> frozenset[str]:
    """Names of the ingredients found in any workflow's text, e.g. `units`, `run`, `vote`."""
    found = {i.name.lower() for i in Instruction if i.value in code}
    found |= {s.name.lower() for s in Style if s.value in code}
    patterns = {
        "run": r"execute_code",
        "vote": r"\.count\)",
        "samples": r"num_of_response=(?:[2-9]|\d\d)",
        "critique": r"Find the mistake",
        "tests": r"test_on_public_test",
        "ending": re.escape(ENDING),
    }
    return frozenset(found | {name for name, pattern in patterns.items() if re.search(pattern, code)})
