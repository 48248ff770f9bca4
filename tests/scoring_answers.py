"""What the graders' tests share: hostile answers, one way to grade, and a sandbox that says what it is told to."""

import asyncio

from hypothesis import strategies as st

from w4s_jax.types import Item, ProgramRun, RunStatus

HOSTILE = [
    None,
    True,
    False,
    "",
    " \t\n",
    "None",
    "null",
    "N/A",
    "\x00",
    "\ud800",
    "5\udfff",
    "{gold}{answer}%s",
    "\\",
    "|",
    ",;",
    "a" * 100_000,
    "a " * 50_000,
    "(" * 100_000,
    "\\boxed{" * 14_000,
    "1," * 50_000,
    "1|" * 50_000,
    "9" * 100_000,
    "e\u0301" * 50_000,
    10**5_000,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    object(),
    [5],
]
"""Answers that no grader may fall over, and that are never right."""

answers = st.one_of(
    st.text(), st.text(st.sampled_from("aAbBthe yesno015.,;|$%-\\{}()")), st.integers(), st.floats(), st.booleans()
)
"""Any scalar, and texts that look like answers."""


class Says:
    """A sandbox whose programs all end in one way; it keeps their texts."""

    name = "says"

    def __init__(self, value="", status=RunStatus.OK, error=""):
        self.run, self.programs = ProgramRun(status=status, value=value, error=error), []

    async def run_program(self, code, limits):
        self.programs.append(code)
        return self.run


def grade(grader, target, answer, sandbox=None, **fields):
    """The grade of one answer."""
    return asyncio.run(grader(Item(id="t/0", question="?", target=target, **fields), answer, sandbox))


def check_grade(got):
    """What holds of every grade."""
    assert 0.0 <= got.score <= 1.0
    assert (got.score == 1.0) == (got.symptom == "")
    assert type(got.symptom) is str
