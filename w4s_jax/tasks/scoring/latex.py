r"""Right or wrong by the value of a formula: MATH.

workflow's answer, gold LaTeX → layout, decimals, else **math-verify in the sandbox** → Grade

Source: MATH (arXiv 2103.03874), whose answer is the content of the last `\boxed`. What
light normalisation cannot settle, math-verify decides, by its own reading of LaTeX and by
sympy, in a sandboxed child: a hostile formula hangs it, or eats its memory.

What math-verify 0.9 holds equal: `(3,4)`, an interval or a pair, and the list `3,4`, but
not `[3,4]` or `(4,3)`; lists and sets in any order; `50\%`, `50`, `0.5` and `\frac{1}{2}`;
a number with a unit behind it, with another, and without; `x=5` and `5`; a decimal and what
it is to six places. Departure: where nothing but a percent sign differs (`12.5\%` and `12.5`), an
answer is right, as by MATH's own rule.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import re
from collections import OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

from w4s_jax.tasks.scoring.text import TextSymptom, as_text, wrong
from w4s_jax.types import Grade, InputError, Item, Limits, ProgramRun, RunStatus, Sandbox

PACKAGES = ("math_verify",)
"""What a sandbox has to be opened with, by the name under which code imports it."""

_VERSIONED = ("math-verify", "latex2sympy2_extended", "sympy")
"""Distributions that decide what is equal; the first asks the others."""

LIMITS = Limits(wall_seconds=20.0, cpu_seconds=5.0)
"""Of one comparison."""

_LONGEST = 2_000
"""Characters beyond which a formula is not read."""
_REMEMBERED = 4_096
"""Comparisons that a grader remembers."""

_BRACE = re.compile(r"(?P<box>\\{1,2}(?:boxed|fbox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
_BOX_WITHOUT_BRACE = re.compile(r"\\boxed\s+([^\s${}\\]+)")
_SURROUNDING = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_LAYOUT = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\\[,!;:\s]|~|\\?[$%]"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\s*\\circ(?:\s*\}|(?![A-Za-z]))|\\degree(?![A-Za-z])|°"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\s"), ""),
)
"""Rewrites of how a formula looks."""
_DECIMAL = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2})?", re.ASCII)
_BASE = re.compile(r"(?<=\d)_\{?(\d+)\}?")
"""Of a number written in it."""
_UNIT = re.compile(
    r"^(\s*\$?[-+]?[\d,]*\.?\d+)\s+(?!(?:times|plus|minus|over|squared|cubed)\b)[A-Za-z]{3,}[A-Za-z .]*$"
)
"""A number and words behind it, e.g. `18 dollars`."""
_EMPHASIS = re.compile(r"\*\*|__|`")
_SAID = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is\s*:?|[:=])\s*|=\s*", re.IGNORECASE
)
"""What a sentence begins with that gives the answer."""
_INLINE = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$")

_PROGRAM = """
import importlib.metadata

importlib.metadata.version = lambda name: {antlr!a}  # asked for on import; packages are here without their metadata
try:
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify import verify
    from math_verify.parser import get_last_eq, should_treat_as_complex
    missing = ""
except ImportError as error:
    missing = "missing: " + str(error)


def read(text):
    form = NormalizationConfig(basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none")
    normal = normalize_latex(text, form)
    for latex in dict.fromkeys((normal, get_last_eq(normal))):
        try:
            is_real = not should_treat_as_complex(latex)
            return latex2sympy(latex, is_real=is_real, convert_degrees=False, normalization_config=None)
        except Exception:
            pass
    return normal


def solution():
    if missing:
        return missing
    gold, answer = read({gold!a}), read({answer!a})
    if verify(gold, answer, timeout_seconds=None):
        return {token!a}
    return "unreadable" if isinstance(answer, str) else "different"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatexGrader:
    """Right where the formula is mathematically equal to `item.target`, LaTeX or a text with a box."""

    _known: OrderedDict[tuple[str, str], Grade] = dataclasses.field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    """Comparisons that the sandbox finished or the CPU limit ended, the oldest first."""

    @property
    def rule(self) -> str:
        """The rule in one line."""
        versions = [f"{name} {importlib.metadata.version(name)}" for name in _VERSIONED]
        return (
            r"the last \boxed of the answer, else its formula, is equal but for layout, or as decimals of six places, "
            f"or by {versions[0]} (with {' and '.join(versions[1:])})"
        )

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0; numbers are read as decimals.

        Raises:
            SandboxError: The sandbox itself could not run the comparison.
            InputError: The sandbox was opened without `PACKAGES`.
        """
        gold, given = formula(as_text(item.target)), formula(_written(answer))
        if not given:
            return wrong(TextSymptom.EMPTY)
        if len(given) > _LONGEST:
            return wrong(TextSymptom.TOO_LONG)
        settled = same_layout(gold, given)
        if settled is not None:
            return Grade(1.0) if settled else wrong(TextSymptom.DIFFERENT)
        known = self._known.get((gold, given))
        if known is not None:
            return known
        run = await _compared(gold, given, sandbox)
        grade = _grade_of(run, gold, sandbox)
        if run.status is not RunStatus.TIMEOUT:  # A wall clock says how busy the machine was, a CPU limit what it took.
            self._known[gold, given] = grade
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return grade


def _written(answer: Any) -> str:
    """A float without an exponent, anything else as text."""
    if isinstance(answer, float) and abs(answer) < float("inf"):
        return format(Decimal(repr(answer)), "f")
    return as_text(answer)


# --- what an answer is ------------------------------------------------------


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{…}` or `\fbox{…}` whose braces are closed, or of `\boxed 5`, or None.

    It takes linear time.

    Example:
        >>> last_boxed(r"So $x=\boxed{\frac{1}{2}}$, not \boxed{3.")
        '\\frac{1}{2}'
    """
    opened: list[tuple[int, bool]] = []
    found = (-1, -1)
    for brace in _BRACE.finditer(text):
        if brace["box"] or brace["open"]:
            opened.append((brace.end(), bool(brace["box"])))
        elif brace["close"] and opened:
            start, is_box = opened.pop()
            if is_box and start > found[0]:
                found = start, brace.start()
    bare = deque(_BOX_WITHOUT_BRACE.finditer(text), maxlen=1)
    if bare and bare[0].start(1) > found[0]:
        return bare[0][1]
    return text[slice(*found)] if found[0] >= 0 else None


def formula(text: str) -> str:
    r"""The last box of a text, else its formula: what a sentence says the answer is, the last `$…$`, or all of it.

    Signs that surround it, emphasis and a full stop are no part of it.

    Example:
        >>> formula(r"So \boxed{2}."), formula("The answer is **$x+1$**."), formula("We get $a$, hence $b$ in all.")
        ('2', 'x+1', 'b')
    """
    boxed = last_boxed(text)
    if boxed is None and len(text) <= _LONGEST:
        boxed = _last_statement(text)
    text = _without_stop(text if boxed is None else boxed)
    for opening, closing in _SURROUNDING:
        if len(text) > len(opening) and text.startswith(opening) and text.endswith(closing):
            text = _without_stop(text.removeprefix(opening).removesuffix(closing))
    return text


def _last_statement(text: str) -> str:
    """The part of an answer without a box that is meant: a sentence is read, and nothing else is."""
    text = _EMPHASIS.sub("", text.strip())
    said = _SAID.match(text)
    if said:
        return text[said.end() :]
    inline = _INLINE.findall(text) if re.search(r"[A-Za-z]{3,}\s+[A-Za-z]{2,}", _INLINE.sub(" ", text)) else []
    return inline[-1] if inline else text


def _without_stop(text: str) -> str:
    text = text.strip()
    return text if text.endswith(r"\right.") else text.removesuffix(".").rstrip()


# --- comparing --------------------------------------------------------------


def same_layout(gold: str, answer: str) -> bool | None:
    r"""Whether formulas are equal but for layout, or as decimals; None where that does not settle it.

    Example:
        >>> same_layout(r"\dfrac{1}{2}", r"\frac{1}{2}"), same_layout("0.5", "0.6"), same_layout("2", r"\sqrt{4}")
        (True, False, None)
    """
    bare = [_bare(text) for text in (gold, _UNIT.sub(r"\1", answer) if _DECIMAL.fullmatch(_bare(gold)) else answer)]
    if bare[0] == bare[1]:
        return True
    if len({tuple(_BASE.findall(text)) for text in bare}) > 1:  # 11_2 is not 11_3; the library drops the base
        return False
    if not all(map(_DECIMAL.fullmatch, bare)):
        return None
    values = [round(Fraction(text.replace(",", "")), 6) for text in bare]
    if values[0] == values[1]:
        return True
    return None if re.search("[%,]", gold + answer) else False  # 50% may be 0.5, and 112,121 a list


def _bare(latex: str) -> str:
    for pattern, replacement in _LAYOUT:
        latex = pattern.sub(replacement, latex)
    return latex


def _token(gold: str) -> str:
    """What the program of a right answer returns."""
    return hashlib.sha256(gold.encode("utf-8", "surrogatepass")).hexdigest()


async def _compared(gold: str, answer: str, sandbox: Sandbox) -> ProgramRun:
    """What math-verify finds, in a child; an answer is but a literal in its program.

    A sandbox repeats a run that came to its wall clock, alone, before it says so.
    """
    antlr = importlib.metadata.version("antlr4-python3-runtime")
    program = _PROGRAM.format(antlr=antlr, gold=gold, answer=answer, token=_token(gold))
    return await sandbox.run_program(program, LIMITS)


def _grade_of(run: ProgramRun, gold: str, sandbox: Sandbox) -> Grade:
    if run.status is RunStatus.OK and run.value == _token(gold):
        return Grade(1.0)
    if run.status is RunStatus.OK and run.value.startswith("missing: "):
        raise InputError(
            f"sandbox {sandbox.name!r} cannot import math-verify ({run.value[9:]}); "
            f"open it with packages={PACKAGES} (--sandbox_packages)"
        )
    different = run.status is RunStatus.OK and run.value == TextSymptom.DIFFERENT
    return wrong(TextSymptom.DIFFERENT if different else TextSymptom.UNREADABLE)
