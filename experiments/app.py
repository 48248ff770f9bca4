"""The frame of every entry point: exit codes, one clear line for bad input, a clean stop.

command line → flags → **main** → exit code

0 success; absl's own for a bad flag; 2 bad input; 3 stopped by a budget,
resumable; 130 and 143 after Ctrl-C and SIGTERM, saved and resumable.
"""

from __future__ import annotations

import asyncio
import io
import logging as std_logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence

from absl import app, flags, logging

from w4s_jax.types import BudgetExceededError, W4sError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it announces the lack of torch, which nothing here needs
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EXIT_BAD_INPUT = 2
EXIT_BUDGET = 3


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl; turns the package's errors into one line and an exit code."""
    logging.set_verbosity(logging.ERROR)  # of the libraries that log through absl: orbax and jax say much
    ours = std_logging.getLogger("w4s_jax")
    ours.addHandler(_handler())
    ours.setLevel(std_logging.WARNING)  # absl has set the root's, which would hold for ours
    ours.propagate = False
    for flag in flags.FLAGS.get_key_flags_for_module("experiments.flags"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # for --help
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode must not cost the result
    app.run(lambda argv: _guarded(main, argv))


def _handler() -> std_logging.Handler:
    handler = std_logging.StreamHandler()
    handler.setLevel(std_logging.WARNING)
    handler.setFormatter(std_logging.Formatter("%(levelname)s: %(message)s"))
    return handler


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]!r}; every option is a flag, see --help", EXIT_BAD_INPUT)
    try:
        main(argv)
    except BudgetExceededError as error:
        _fail(str(error), EXIT_BUDGET)
    except W4sError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def _fail(text: str, code: int) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def run_async(work: Coroutine[None, None, None]) -> None:
    """Runs a coroutine; Ctrl-C and SIGTERM cancel it, let it save, and exit with 130 and 143.

    The command that resumes is printed: a run directory makes the same command go on.
    """
    stopped_by: list[int] = []

    async def supervised() -> None:
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

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        await task

    try:
        asyncio.run(supervised())
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        print(f"stopped; everything finished is saved. Resume with:\n  {resume_command()}", file=sys.stderr)
        sys.exit(128 + stopped_by[0])


def resume_command() -> str:
    """The command line of this process, or of what started it and others, to be given again."""
    if "W4S_COMMAND" in os.environ:
        return os.environ["W4S_COMMAND"]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = ["-m", module.name] if module else [sys.argv[0]]
    return shlex.join(
        [
            os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable,
            *name,
            *sys.argv[1:],
        ]
    )
