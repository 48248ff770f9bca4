r"""Golden and hostile formulas: what settles at a glance, what math-verify says, and what it must not do here."""

import ast
import asyncio
import hashlib
import importlib.metadata
import time

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sandbox_host import opened
from scoring_answers import HOSTILE, Says, answers, check_grade, grade

from w4s_jax.tasks.scoring import latex
from w4s_jax.tasks.scoring.latex import LatexGrader, formula, last_boxed, same_layout
from w4s_jax.types import InputError, Item, Limits, RunStatus, SandboxError

in_the_sandbox = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with opened("auto", packages=latex.PACKAGES, workers=2) as pool:
        yield pool


def item(gold):
    return Item(id="math/0", question="?", target=gold)


# --- what the answer is


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{5}", "5"),
        (r"So \boxed{1} and then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{4}", "4"),
        (r"\boxed {x}", "x"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"a \\ \\\boxed{7}", "7"),
        (r"\\boxed{6}", "6"),
        (r"\boxed{1} or \boxed{2", "1"),
        (r"\boxed{2 or \boxed{3}", "3"),
        (r"}}\boxed{8}{{", "8"),
        (r"It is $\boxed 9$.", "9"),
        (r"\boxed{0}, no: $\boxed 5$", "5"),
        (r"$\boxed 5$, no: \boxed{0}", "0"),
        (r"\boxed{}", ""),
        ("5", None),
        (r"\boxed", None),
        (r"\boxed{5", None),
        ("{5}", None),
    ],
)
def test_the_last_box_whose_braces_close_is_the_answer(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("5", "5"),
        (" 5.\n", "5"),
        ("$5$", "5"),
        ("$$5$$.", "5"),
        ("$5.$", "5"),
        (r"\(x+1\)", "x+1"),
        (r"\[x+1\]", "x+1"),
        (r"Thus $\boxed{$5$}$ holds.", "5"),
        (r"\left. x \right.", r"\left. x \right."),
        ("The answer is 5.", "5"),
        ("So the final answer is: **$x+1$**.", "x+1"),
        ("Answer: `7`", "7"),
        ("= 2", "2"),
        ("We get $a$ first, hence $b$ in all.", "b"),
        ("It is 5, they say", "It is 5, they say"),
        ("$", "$"),
    ],
)
def test_the_box_or_all_of_the_answer_is_read_without_what_surrounds_it(text, read):
    assert formula(text) == read


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "\\boxed{\\boxed", "\\boxed ", "{", "}", "$", "\\", "\\(", "\\fbox{}", " "]
)
def test_a_million_characters_are_read_in_no_time(piece):
    start = time.process_time()
    formula(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 3.0


# --- what settles at a glance


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", r"\dfrac{1}{2}"),
        (r"\frac{1}{2}", r"\tfrac { 1 } { 2 }"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\text{Monday}", "Monday"),
        (r"\text{(A)}", r"\textbf{(A)}"),
        (r"90^\circ", "90"),
        ("90", r"90^{\circ}"),
        (r"x\,y", "x y"),
        (r"\$18.90", "18.9"),
        (r"12.5\%", "12.5"),
        ("1,000", "1000"),
        (r"1{,}000", "1000.0"),
        (r"10\,000", "10000"),
        ("0.5", ".50"),
        ("-3", "-3."),
        ("0.1", 0.1),
        ("0.3", 0.1 + 0.2),  # equal to six places
        ("18", 18.0),
        ("18", 18),
        ("0.00001", 1e-5),
        ("100000000000000000000", 1e20),
        ("2", "2.0000001"),
    ],
)
def test_layout_units_of_degree_and_decimals_do_not_matter(gold, answer):
    sandbox = Says()
    assert grade(LatexGrader(), gold, answer, sandbox) == (1.0, "")
    assert sandbox.programs == []


@pytest.mark.parametrize(("gold", "answer"), [("18", "19"), ("0.5", "0.51"), ("18", 17.5), ("2", "2.00001")])
def test_other_decimals_are_wrong_without_the_sandbox(gold, answer):
    sandbox = Says()
    assert grade(LatexGrader(), gold, answer, sandbox) == (0.0, "different")
    assert sandbox.programs == []


@pytest.mark.parametrize(
    ("gold", "answer"), [("50\\%", "0.5"), ("112,121", "121,112"), ("2", r"\sqrt{4}"), (r"\pi", "pi"), ("5", "5 cm")]
)
def test_what_could_be_equal_is_not_settled_at_a_glance(gold, answer):
    assert same_layout(gold, answer) is None


# --- what math-verify says

EQUAL = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", r"It is $\boxed{\frac{2}{4}}$."),
    ("0.5", r"\boxed{\frac{1}{2}}"),
    (r"\frac{1}{3}", "0.333333"),
    ("1000000", "10^6"),
    (r"1{,}000", r"10^3"),
    (r"(3,4)", "(3, 4.0)"),
    ("(3,4)", "3,4"),
    (r"\left[0,\infty\right)", r"[0,+\infty)"),
    ("1,2", r"\{2,1\}"),
    ("112, 121, 211", "211, 121, 112"),
    (r"1\text{ and }2", "2, 1"),
    ("x^2+1", "1+x^2"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    (r"50\%", "0.5"),
    ("0.5", r"50\%"),
    (r"50\%", r"\frac{1}{2}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2.0 \end{bmatrix}"),
    (r"5\text{ cm}", "5"),
    ("5", "5 cm"),
    ("12", r"12\ \mathrm{cm}^2"),
    ("90^\\circ", "90 degrees"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("y=2x+3", "y = 3 + 2x"),
    (r"3\frac{1}{2}", "3.5"),
    (r"\text{Monday}", "monday"),
    (r"\text{(A)}", "A"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"So \boxed{1} is wrong, it is \boxed{\sqrt{9}}", "3"),
]
DIFFERENT = [
    (r"\frac{1}{2}", "0.51"),
    (r"\frac{1}{3}", "0.33"),
    (r"\pi", "3.14"),
    ("(3,4)", "(4,3)"),
    ("(3,4)", "[3,4]"),
    ("[0,1)", "(0,1)"),
    ("1,2", "1,3"),
    ("3", "1,2,3,4,5"),
    ("x^2+1", "x^2-1"),
    (r"2\sqrt{2}", r"\sqrt{7}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\text{Monday}", r"\text{Tuesday}"),
    (r"\text{(A)}", "B"),
    ("x=5", "y=5"),
    (r"12.5", "0.125"),
    ("90^\\circ", r"\frac{\pi}{2}"),
    ("5", r"\frac{0}{0}"),
    ("5", r"\infty-\infty"),
    ("5", r"\text{}"),
    ("5", "It is 5, they say"),
    ("11_2", "11_3"),
    ("11_2", "11"),
    ("2", "2 pi"),
    ("2", "2 times"),
    ("18", "18 or 19 dollars"),
    ("5", True),
    ("5", "None"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
@in_the_sandbox
async def test_equal_formulas_are_right(pool, gold, answer):
    assert await LatexGrader()(item(gold), answer, pool) == (1.0, "")


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
@in_the_sandbox
async def test_different_formulas_are_wrong(pool, gold, answer):
    got = await LatexGrader()(item(gold), answer, pool)
    assert got.score == 0.0
    assert got.symptom in ("different", "unreadable")


# --- hostile answers


@pytest.mark.parametrize(
    "answer",
    [
        r"10^{10^{10^{10}}}",
        r"9^{9^{9^{9}}}",
        r"((((100!)!)!)!)!",
        r"(x+1)^{10000}",
        "{" * 900 + "5" + "}" * 900,
        "(" * 900 + "5" + ")" * 900,
        "a_{" * 400 + "1" + "}" * 400,
        r"\sqrt{" * 280 + "2" + "}" * 280,
        "9" * 1_900 + "!",
    ],
    ids=["tower", "nines", "factorials", "binomial", "braces", "parentheses", "indices", "roots", "huge factorial"],
)
@in_the_sandbox
async def test_a_formula_that_never_ends_is_unreadable(pool, monkeypatch, answer):
    monkeypatch.setattr(latex, "LIMITS", Limits(wall_seconds=20.0, cpu_seconds=1.0))
    got = await LatexGrader()(item("5"), answer, pool)
    assert got.score == 0.0
    assert got.symptom in ("unreadable", "different")


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('true')",
        "5\x00",
        "\x005",
        "\ud800",
        "5\udfff",
        "'); import os; os._exit(0)  #",
        "')\n    return True\n",
        '"""',
        "'''",
        "\\",
        "\\'",
        "{gold!a}",
        "{token}",
        "%s",
        "different",
        "missing: math",
        hashlib.sha256(b"5").hexdigest(),
        "5\u200b",
    ],
    ids=range(18),
)
@in_the_sandbox
async def test_code_in_an_answer_is_text(pool, answer):
    got = await LatexGrader()(item("5"), answer, pool)
    assert got.score == 0.0
    assert got.symptom in ("unreadable", "different")


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_a_wrong_one_in_no_time(answer):
    start = time.process_time()
    check_grade(grade(LatexGrader(), "gold", answer, Says("different")))
    assert time.process_time() - start < 2.0


def test_what_is_too_long_is_not_even_sent():
    sandbox = Says()
    for answer in ("{" * 100_000 + "5" + "}" * 100_000, "x+" * 1_500, 10**5_000):
        assert grade(LatexGrader(), "5", answer, sandbox) == (0.0, "too long")
    for answer in (None, "", "  ", r"\boxed{ }"):
        assert grade(LatexGrader(), "5", answer, sandbox) == (0.0, "empty")
    assert sandbox.programs == []


def literals_of(program):
    """The texts that a program reads."""
    calls = (node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call))
    reads = [call for call in calls if getattr(call.func, "id", "") == "read"]
    return [ast.literal_eval(call.args[0]) for call in reads]


@given(st.text(st.characters(), min_size=1), st.text(min_size=1))
def test_an_answer_is_but_a_literal_of_its_program(answer, gold):
    sandbox = Says("different")
    check_grade(grade(LatexGrader(), gold, answer, sandbox))
    for program in sandbox.programs:
        assert program.isascii()
        assert literals_of(program) == [formula(gold), formula(answer)]


@given(answers)
def test_any_answer_gets_a_grade(answer):
    check_grade(grade(LatexGrader(), r"\frac{1}{2}", answer, Says("unreadable")))


# --- what the sandbox says


@pytest.mark.parametrize(
    ("status", "value", "symptom"),
    [
        (RunStatus.OK, "different", "different"),
        (RunStatus.OK, "unreadable", "unreadable"),
        (RunStatus.OK, "True", "unreadable"),
        (RunStatus.OK, "", "unreadable"),
        (RunStatus.EXCEPTION, "", "unreadable"),
        (RunStatus.TIMEOUT, "", "unreadable"),
        (RunStatus.LIMIT, "", "unreadable"),
        (RunStatus.MALFORMED, hashlib.sha256(b"x").hexdigest(), "unreadable"),
    ],
)
def test_only_the_token_of_a_finished_program_is_right(status, value, symptom):
    assert grade(LatexGrader(), "x", "y+z", Says(value, status)) == (0.0, symptom)


def test_the_same_pair_is_compared_once_and_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(latex, "_REMEMBERED", 3)
    grader, sandbox = LatexGrader(), Says("different")
    for answer in ("a", "b", "a", r"$\boxed{a}$", "b"):
        grade(grader, "x", answer, sandbox)
    assert len(sandbox.programs) == 2
    for answer in ("c", "d", "b"):
        grade(grader, "x", answer, sandbox)
    assert len(sandbox.programs) == 4
    grade(grader, "x", "a", sandbox)  # the oldest was forgotten
    assert len(sandbox.programs) == 5
    assert LatexGrader() == grader


@pytest.mark.parametrize(("status", "runs"), [(RunStatus.TIMEOUT, 2), (RunStatus.LIMIT, 1)])
def test_the_wall_clock_of_a_busy_machine_is_not_remembered_and_a_cpu_limit_is(status, runs):
    grader, busy = LatexGrader(), Says(status=status)
    assert grade(grader, "x", "y+z", busy) == grade(grader, "x", "y+z", busy) == (0.0, "unreadable")
    assert len(busy.programs) == runs
    later = grade(grader, "x", "y+z", Says(hashlib.sha256(b"x").hexdigest()))
    assert later.score == (1.0 if status is RunStatus.TIMEOUT else 0.0)


def test_a_sandbox_that_fails_is_no_grade():
    class Broken:
        async def run_program(self, code, limits):
            raise SandboxError("zygote died")

    grader = LatexGrader()
    with pytest.raises(SandboxError):
        grade(grader, "x", "y", Broken())
    assert grade(grader, "x", "y", Says("different")).symptom == "different"  # nothing was remembered of it


def test_a_sandbox_without_math_verify_is_named_with_its_remedy():
    async def graded():
        async with opened("auto", packages=("sympy",), workers=1) as pool:
            await LatexGrader()(item("x"), "y", pool)

    with pytest.raises(InputError, match=r"cannot import math-verify .*packages=\('math_verify',\)"):
        asyncio.run(graded())


def test_the_rule_names_the_versions_that_decide():
    assert LatexGrader().rule.startswith(r"the last \boxed of the answer, else its formula")
    for package in ("math-verify", "latex2sympy2_extended", "sympy"):
        assert f"{package} {importlib.metadata.version(package)}" in LatexGrader().rule
