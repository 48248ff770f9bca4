"""Right or wrong by tests that run, with the answer, in a sandboxed child.

workflow's program, tests → **sandbox.run_program** → Grade

Sources: HumanEval (arXiv 2107.03374) and MBPP (arXiv 2108.07732), pass@1 of one answer. One
harness runs both and users' tests; what the program is, and what the tests are, is the
benchmark's to say.

Departures: tests see plain data alone, because an object can be written that equals
everything; and the answer is a module of its own, not `__main__`, that runs in a thread of
its own, so that no frame, namespace or name of the tests is in its reach by ordinary means.

Still forgeable: answer and tests share a process. An answer can wait for the tests' thread
to run something of its (a finalizer, a hook or the code of the standard library's
functions, the methods of a class or the globals of a function that the tests hand it), read
memory with `ctypes`, restore what is hidden by importing `sys` or `gc` anew, or find the
runner's classes under `object.__subclasses__()`; from there it can read the last word and
say it. See `sandbox/base.py`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from w4s_jax.types import Grade, InputError, Item, Limits, ProgramRun, RunStatus, Sandbox

GRADING_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=10.0)
"""Of one answer with its tests."""

PASS_AT_1 = "every test passes, in the sandbox (harness 2); pass@1"
"""The rule; the number is that of the harness below, since another one may grade otherwise."""


class CodeSymptom(enum.StrEnum):
    """The closed set of what the parent can see of a program that fails."""

    EMPTY = "empty"
    """No text."""
    NO_FUNCTION = "no function"
    """Does not define the function."""
    SYNTAX_ERROR = "syntax error"
    """Does not compile."""
    FAILED_TEST = "failed test"
    """An assertion fails."""
    EXCEPTION = "exception"
    """Raises anything else, returns no plain data, or leaves early."""
    TIMEOUT = "timeout"
    """Runs out of wall clock."""
    LIMIT = "limit"
    """Runs out of CPU or memory."""


class GradingProgram(NamedTuple):
    """A program that grades an answer."""

    text: str
    token: str
    """What it gives iff every test passed; the answer cannot know it, so leaving early does not pass."""


def token_of(item: Item, tests: str) -> str:
    """The last word of a program that passed."""
    return hashlib.sha256(f"{item.id}\n{tests}".encode()).hexdigest()


def is_empty(answer: Any) -> bool:
    """Whether there is no program at all."""
    return not isinstance(answer, str) or not answer.strip()


def defines(answer: str, entry_point: str) -> bool:
    """Whether a text binds the name; by its look, since parsing hostile code can take the parent down."""
    return re.search(rf"^(?:(?:async )?def {entry_point}\b|{entry_point}\s*[:=])", answer, re.MULTILINE) is not None


async def run_graded(program: GradingProgram, sandbox: Sandbox) -> Grade:
    """Runs an answer with its tests; 1.0 iff all of them ran and passed.

    Raises:
        SandboxError: The sandbox itself could not run it.
    """
    run = await sandbox.run_program(program.text, GRADING_LIMITS)
    if run.status is RunStatus.OK and run.value == program.token:
        return Grade(1.0)
    return Grade(0.0, _symptom(run).value)


def _symptom(run: ProgramRun) -> CodeSymptom:
    if run.status in (RunStatus.TIMEOUT, RunStatus.LIMIT):
        return CodeSymptom(run.status.value)
    named = {
        "LookupError: the answer defines no function": CodeSymptom.NO_FUNCTION,
        "AssertionError": CodeSymptom.FAILED_TEST,
        "SyntaxError": CodeSymptom.SYNTAX_ERROR,
        "IndentationError": CodeSymptom.SYNTAX_ERROR,
        "TabError": CodeSymptom.SYNTAX_ERROR,
    }
    return next((symptom for error, symptom in named.items() if error in run.error), CodeSymptom.EXCEPTION)


# --- the harness ------------------------------------------------------------

_HARNESS = """
import _thread, ast, builtins, collections, gc, os, re, sys, types

__builtins__ = dict(vars(builtins))  # of this code, whatever becomes of the others


def _grade(parts, name, tests, token):
    trees = tuple(ast.parse(test, "<test>") for test in tests)
    codes = tuple(compile(tree, "<test>", "exec", dont_inherit=True, optimize=0) for tree in trees)
    parts = tuple(compile(part, "<answer>", "exec", dont_inherit=True) for part in parts)
    nodes = tuple(node for tree in trees for node in ast.walk(tree))
    modules = _modules(nodes)
    names = {"__name__": "tests", "__builtins__": {**__builtins__, "__import__": _importer(modules)}}
    _hide()
    ask = _asker()
    plain = _reducer(ask, modules)
    answer = _run(ask, parts)
    function = ask(answer.get, name)
    if not callable(function):
        raise LookupError("the answer defines no function")
    free = _free(nodes) - {name}
    names.update(_named(ask, plain, answer, free - modules.keys()))
    names.update({key: modules[key] for key in free & modules.keys()})
    done = 0
    for code in codes:
        names[name] = _guarded(ask, plain, function)
        exec(code, names)
        done += 1
    if done != len(tests):
        raise AssertionError("not every test ran")
    return token


def _run(ask, parts):
    module = types.ModuleType("answer")
    vars(module)["__builtins__"] = builtins
    sys.modules["answer"] = sys.modules["__main__"] = module
    for part in parts:
        ask(exec, part, vars(module))
    return vars(module)


def _hide():
    hidden = {
        sys: "_current_frames _current_exceptions _settraceallthreads _setprofileallthreads addaudithook monitoring",
        gc: "get_objects get_referrers get_referents callbacks unfreeze",
    }
    for module, names in hidden.items():
        for name in names.split():
            vars(module).pop(name, None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "child"]:
        del sys.modules[name]
    gc.freeze()
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")


# What the tests import is found in their text and copied before the answer runs.


def _free(nodes):
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return {node.id for node in names} - bound - __builtins__.keys()


def _modules(nodes):
    wanted = [(name, ()) for name in _free(nodes) & sys.stdlib_module_names]
    wanted += [(alias.name, ()) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    wanted += [(node.module, [alias.name for alias in node.names]) for node in froms]
    found = set()
    for name, names in wanted:
        try:
            __import__(name, fromlist=names)
        except ImportError:
            continue  # the test says so itself
        found |= {name, name.partition(".")[0]}
    return {name: _copied(sys.modules[name]) for name in found}


def _copied(module):
    copy = type("Module", (types.ModuleType,), {"__setattr__": _apart(_set_both)})(module.__name__)
    vars(copy).update(vars(module), _original=module)
    return copy


def _set_both(copy, name, value):  # a test's own change counts for the answer, too
    vars(copy)[name] = value
    setattr(vars(copy)["_original"], name, value)


def _importer(modules):
    real = __import__

    def own(name, globals=None, locals=None, fromlist=(), level=0):
        found = modules.get(name if fromlist else name.partition(".")[0])
        return found or real(name, globals, locals, fromlist, level)

    return own


# The answer's thread: no frame of ours is below it. What it may come across has globals of its own.


def _asker():
    asked, answered, box = _thread.allocate_lock(), _thread.allocate_lock(), [None]
    asked.acquire()
    answered.acquire()
    _thread.stack_size(32 << 20)
    _thread.start_new_thread(_apart(_work), (asked, answered, box))
    _thread.stack_size(0)

    def ask(function, *args, **kwargs):
        box[0] = function, args, kwargs
        asked.release()
        answered.acquire()
        value, error = tuple.__iter__(box[0])  # which the box keeps, to be finalized there
        if error is not None:
            raise _renewed(ask, error) from None
        return value

    return ask


def _apart(function):
    return types.FunctionType(function.__code__, {"__builtins__": dict(__builtins__)})


def _work(asked, answered, box):
    while True:
        asked.acquire()
        try:
            function, args, kwargs = box[0]
            box[0] = function(*args, **kwargs), None
        except BaseException as error:
            box[0] = None, error
        answered.release()


def _renewed(ask, error):  # one of the answer's would carry frames of the tests back to it
    classes = {id(kind) for kind in __builtins__.values() if isinstance(kind, type) and issubclass(kind, BaseException)}
    bases = type.__dict__["__mro__"].__get__(type(error))
    kind = next((base for base in bases if id(base) in classes), RuntimeError)
    return kind(*map(_reducer(ask, {}), BaseException.__dict__["args"].__get__(error)))


# Plain data, made by the methods of the builtins alone.


def _guarded(ask, plain, function):
    return lambda *args, **kwargs: plain(ask(function, *args, **kwargs))


def _named(ask, plain, answer, names):
    for name in names:
        value = ask(answer.get, name)
        if value is None or type(value) is types.ModuleType:
            continue
        if issubclass(type(value), type):
            yield name, value
        else:
            yield name, _guarded(ask, plain, value) if callable(value) else plain(value)


def _reducer(ask, modules):
    own = type(None), bool, int, float, complex, str, bytes, range, re.Match
    own += (modules["decimal"].Decimal,) if "decimal" in modules else ()
    own = {id(kind) for kind in own}
    scalars = {int: int.__int__, float: float.__float__, complex: complex.__complex__}
    scalars |= {str: str.__str__, bytes: bytes.__bytes__}
    views = {
        type({}.keys()): lambda view: dict.fromkeys(map(plain, view)).keys(),
        type({}.values()): lambda view: dict(enumerate(map(plain, view))).values(),
        type({}.items()): lambda view: dict(map(plain, view)).items(),
    }
    reduce = _apart(_reduced)

    def plain(value):
        kind = type(value)
        if id(kind) in own:
            return value
        for base in (list, tuple, set, frozenset, collections.deque):
            if issubclass(kind, base):
                return base(map(plain, base.__iter__(value)))
        if issubclass(kind, dict):
            return {plain(key): plain(item) for key, item in dict.items(value)}
        for base, make in (scalars | views).items():
            if issubclass(kind, base):
                return make(value)
        if ask(hasattr, kind, "__next__") is True:
            return lazy(value)
        return plain(ask(reduce, value))

    def lazy(iterator):
        end = object()
        while (value := ask(next, iterator, end)) is not end:
            yield plain(value)

    return plain


def _reduced(value):  # runs as the answer does; what it makes is reduced in its turn
    if type(value).__module__ == "numpy":
        return value.tolist()
    if type(value).__module__ in ("decimal", "fractions"):
        above, below = value.as_integer_ratio()
        return above if below == 1 else above / below
    raise TypeError("the function returned something else than plain data")
"""
"""Runs an answer in a module and a thread of its own, then tests that see what it returns as plain data.

Copies of lists, tuples, sets, deques, dicts, numbers and texts lose what a subclass added, iterators become lazy ones,
numpy's scalars and arrays numbers and lists, fractions and decimals numbers, and errors the builtin ones that they
derive from; decimals stay what they are for tests that import `decimal`. To the tests, builtins and modules are what
they were before the answer ran. Of the answer they have the function, and by name what else they use of it.
"""

_CALL = """
def solution():
    return _grade({parts!a}, {name!a}, {tests!a}, {token!a})
"""


def harness_program(
    item: Item, parts: Sequence[str], *, setup: str = "", tests: Sequence[str], name: str
) -> GradingProgram:
    """The program that runs an answer, all texts literals in it, with the setup and the tests.

    Args:
        item: Names the token.
        parts: Texts of the answer, compiled apart and run one after the other in one module.
        setup: Python in front of the tests.
        tests: Texts of Python that assert, run in one namespace.
        name: The function of the answer that they call.
    """
    tests = [setup, *tests]
    token = token_of(item, "\n".join(tests))
    return GradingProgram(_HARNESS + _CALL.format(parts=tuple(parts), name=name, tests=tests, token=token), token)


# --- assertions -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestsGrader:
    """Runs `item.entry_point` of the answer in tests; 1.0 iff all pass.

    `item.target` is a dict: `tests`, texts of Python that assert, and `setup`, code in front of them.
    """

    __test__ = False
    """It is no test case of pytest's."""

    rule = PASS_AT_1

    async def __call__(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Grades 1.0 or 0.0.

        Raises:
            SandboxError: The sandbox itself could not run the tests.
            InputError: The item does not name its function.
        """
        if is_empty(answer):
            return Grade(0.0, CodeSymptom.EMPTY.value)
        return await run_graded(self.program(item, answer), sandbox)

    @staticmethod
    def program(item: Item, answer: str) -> GradingProgram:
        """The program that runs an answer, a literal in it, with the setup and the tests.

        Raises:
            InputError: The item does not name its function.
        """
        if not item.entry_point:
            raise InputError(f"item {item.id}: entry_point is {item.entry_point!r}; name the function that tests call")
        target = item.target
        return harness_program(
            item, [answer], setup=target.get("setup", ""), tests=target["tests"], name=item.entry_point
        )
