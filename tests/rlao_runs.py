"""Real runs of `experiments.rlao` that the tests of the entry points share."""

import contextlib
import fcntl
import functools
import json
from pathlib import Path

from benchmarks.kill_and_resume import Command, Left
from benchmarks.scripted_agent import write_scripted_agent


class Shared:
    """A folder for all workers of a session; what is in it is made once, by whoever comes first."""

    def __init__(self, tmp_path_factory):
        base = tmp_path_factory.getbasetemp()
        self.root = (base.parent if base.name.startswith("popen-") else base) / "rlao"
        self.root.mkdir(exist_ok=True)
        self.command = Command(self.root / "agent", self.root / "compiled")
        with self.locked():
            if not (self.root / "agent").exists():
                write_scripted_agent(self.root / "agent")

    @contextlib.contextmanager
    def locked(self):
        """While it lasts, no other worker makes anything here."""
        with open(self.root / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @functools.cached_property
    def run_dir(self) -> Path:
        """A run that was never interrupted."""
        run_dir = self.root / "uninterrupted"
        with self.locked():
            if not (run_dir / "summary.json").exists():
                done = self.command.finish(run_dir)
                assert done.returncode == 0, done.stderr
                (self.root / "uninterrupted.stdout").write_text(done.stdout)
        return run_dir

    @functools.cached_property
    def left(self) -> Left:
        """What that run left."""
        return Left.of(self.run_dir)


def records(path):
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def one_line(done, code):
    """The one line of a refused command, without its `error: `; it has no traceback and nothing on standard output."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("error: ")
