"""The frame of every command: exit codes, one clear line for bad input, a clean stop; and `w4s`, which names them all.

command line → flags → **main** → exit code

`w4s optimize --task=…`, where the package is installed, is `python -m experiments.optimize --task=…` in a checkout.

0 success; absl's own for a bad flag; 2 bad input; 3 stopped by a budget,
resumable; 130 and 143 after Ctrl-C and SIGTERM, saved and resumable.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import difflib
import importlib
import io
import logging as std_logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from w4s_jax.types import BudgetExceededError, W4sError

from .flags import HELP, Flags

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it announces the lack of torch, which nothing here needs
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EXIT_BAD_INPUT = 2
EXIT_BUDGET = 3

Main = Callable[[], None]

PROGRAM = "w4s"
COMMANDS = (
    *("optimize", "evaluate", "rlao", "report", "export", "score"),
    *("simulate", "warm_start", "preflight", "doctor"),
)
"""In the order of the help; each is a module beside this one."""
FLAG_FILES = Path(__file__).parent / "flags"


# --- all commands as one program --------------------------------------------------


def w4s() -> None:
    """The program `w4s`: a command's name, then its flags.

    Raises:
        SystemExit: With the command's exit code, or 2 where there is no such command.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in HELP | {"help"}:
        lines = "\n".join(f"  {command:<12}{summary(command)}" for command in COMMANDS)
        print(f"usage: {PROGRAM} COMMAND --flag=value …\n\n{lines}\n\n{PROGRAM} COMMAND --help lists its flags.")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        _fail(f"command {name!r} is unknown{f', did you mean {near[0]}?' if near else ''}; see {PROGRAM} --help", 2)
    try:
        command = importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "w4s_jax":
            raise
        _fail(f"{PROGRAM} {name} needs {error.name}, which is not installed; pip install 'w4s_jax[train]'", 2)
    run(command.main, command.FLAGS, [f"{PROGRAM} {name}", *map(shipped_flags, arguments)])


def summary(command: str) -> str:
    """The first line of a command's docstring, without importing what it needs."""
    tree = ast.parse(Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").splitlines()[0].partition("`")[0].rstrip(": ")


def shipped_flags(argument: str) -> str:
    """`--flagfile=quickstart` as the path of the flag file of that name, which comes with the package."""
    shipped = FLAG_FILES / f"{argument.removeprefix('--flagfile=')}.flags"
    return f"--flagfile={shipped}" if argument.startswith("--flagfile=") and shipped.is_file() else argument


# --- one command ------------------------------------------------------------------


def run(main: Main, command: Flags, argv: list[str] | None = None) -> None:
    """Runs `main` under absl, and ends the process with its exit code.

    Args:
        main: What the command does.
        command: Its flags.
        argv: Its command line, the program's name first; None: that of the process.
    """
    logging.set_verbosity(logging.ERROR)  # of the libraries that log through absl: orbax and jax say much
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode must not cost the result

    def parsed(argv: Sequence[str]) -> list[str]:
        flags.FLAGS.mark_as_parsed()  # absl's own; a command has flags of its own
        return list(argv)

    app.run(lambda argv: execute(main, command, argv), argv=argv, flags_parser=parsed)


def execute(main: Main, command: Flags, argv: Sequence[str]) -> None:
    """Reads the flags and runs `main`; turns errors of the library into one line and an exit code.

    Args:
        main: What the command does.
        command: Its flags.
        argv: The command line, the program's name first.

    Raises:
        SystemExit: With any exit code but 0.
    """
    if not HELP.isdisjoint(argv[1:]):
        print(f"{(sys.modules[main.__module__].__doc__ or '').strip()}\n\nflags:\n{_help(command)}")
        return
    try:
        rest = command.parse(argv)
    except flags.Error as error:
        print(f"FATAL Flags parsing error: {error}\nPass --help to see help on flags.", file=sys.stderr)
        sys.exit(1)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; every option is a flag, see --help", EXIT_BAD_INPUT)
    with _warnings_shown():
        try:
            main()
        except BudgetExceededError as error:
            _fail(str(error), EXIT_BUDGET)
        except W4sError as error:
            _fail(str(error), EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            sys.exit(130)


def _help(command: Flags) -> str:
    """Every flag with its default."""
    lines = []
    for name in sorted(command.values):
        flag = command.values[name]
        default = "" if "(default:" in flag.help else f" (default: {flag.default_as_str or 'none'})"
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}\n      {flag.help}{default}")
    return "\n".join([*lines, "  --flagfile\n      A file of flags, a flag a line; # begins a comment."])


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Shows the library's warnings on standard error, a line each."""
    ours, handler = std_logging.getLogger("w4s_jax"), std_logging.StreamHandler()
    handler.setFormatter(std_logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(std_logging.WARNING)
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(std_logging.WARNING)  # absl has set the root's, which would hold for ours
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]


def _fail(text: str, code: int) -> NoReturn:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine and returns its result; Ctrl-C and SIGTERM cancel it, let it save, and exit with 130 and 143.

    The command that resumes is printed: a run directory makes the same command go on.
    """
    stopped_by: list[int] = []

    async def supervised() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            first = not stopped_by
            stopped_by.append(number)
            if first:
                print("\nstopping: finishing what cannot be interrupted …", file=sys.stderr, flush=True)
                task.cancel()
            else:
                os._exit(128 + number)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop, number)
        return await task

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        print(f"stopped; everything finished is saved. Resume with:\n  {resume_command()}", file=sys.stderr)
        sys.exit(128 + stopped_by[0])


def resume_command() -> str:
    """The command line of this process, or of what started it and others, to be given again."""
    if "W4S_COMMAND" in os.environ:
        return os.environ["W4S_COMMAND"]
    if Path(sys.argv[0]).name == PROGRAM:
        return shlex.join([PROGRAM, *sys.argv[1:]])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = ["-m", module.name] if module else [sys.argv[0]]
    return shlex.join(
        [
            os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable,
            *name,
            *sys.argv[1:],
        ]
    )
