"""Commands run in this process, as a shell would run them: exit code, standard output, standard error."""

import contextlib
import importlib
import io
import subprocess


def run_command(name, *arguments):
    """Runs a command of `experiments` with a command line; what it does in a process of its own is in few tests."""
    command = importlib.import_module(f"experiments.{name}")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module("experiments.app").execute(command.main, command.FLAGS, [name, *arguments])
        except SystemExit as exit_:
            code = exit_.code
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())
