"""The simulated executor behind HTTP: the real client, killed once, makes the run that the one in the process makes."""

import json
import re
import shlex
import signal
import sqlite3

import pytest
from rlao_runs import one_line

from benchmarks.kill_and_resume import Left, stopped_when, turns_stored


@pytest.fixture
def output(shared):
    """What `experiments.simulate` prints while it serves."""
    arguments = "--task=toy_units --validation_size=4 --test_size=4 --faults=rate_limited=0.1,server_error=0.1"
    server = shared.command.python("-m", "experiments.simulate", *arguments.split())
    try:
        lines = []
        while "Ctrl-C stops it." not in (line := server.stdout.readline()):
            assert line, server.stderr.read()
            lines.append(line)
        yield "".join(lines)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=120) == 130
    finally:
        server.kill()
        server.communicate()


@pytest.mark.slow
def test_the_run_over_http_is_the_run_in_the_process(shared, output):
    """With the flags that `simulate` prints, through failing attempts and a kill: equal accuracies and parameters."""
    command = re.search(r"python -m experiments.rlao \\\n(.*?)\n\n", output, re.DOTALL)[1]
    flags = shlex.split(command.replace("\\\n", ""))
    assert "--executor=openai" in flags
    run_dir = shared.root / "http"
    stopped_when(shared.command.start(run_dir, *flags), lambda: turns_stored(run_dir) >= 3, signal.SIGKILL)
    stored = Left.of(run_dir)
    done = shared.command.finish(run_dir, *flags)
    assert done.returncode == 0, done.stderr

    left, summary = Left.of(run_dir), json.loads((run_dir / "summary.json").read_text())
    wanted = json.loads((shared.run_dir / "summary.json").read_text())
    for label in ("seeds", "before", "after"):
        assert summary[label] == wanted[label]
    assert summary["mean_reward"] == wanted["mean_reward"]
    assert (left.parameters, left.metrics) == (shared.left.parameters, shared.left.metrics)
    assert {strip(line) for line in left.turns} == {strip(line) for line in shared.left.turns}

    assert set(left.calls) == set(shared.left.calls)
    assert set(left.calls.values()) == {1}  # no reply was bought twice, in spite of the kill
    assert set(stored.calls) <= set(left.calls)
    assert stored.turns <= left.turns
    with sqlite3.connect(run_dir / "calls.sqlite") as db:
        outcomes = dict(db.execute("SELECT outcome, count(*) FROM calls GROUP BY 1"))
    assert {"rate_limited", "server"} & {o.partition("_error")[0] for o in outcomes}  # failed attempts are booked apart
    assert summary["faults"] == {name: count for name, count in outcomes.items() if name != "reply"}


def strip(line):
    """A turn without its costs, which are sums of floats in the order in which calls came back."""
    return re.sub(r'"usd(_per_item)?": [0-9.e-]+', "", line)


def test_an_unknown_fault_is_refused(shared):
    said = one_line(shared.command.python_to_end("-m", "experiments.simulate", "--task=toy_units", "--faults=bad=1"), 2)
    assert "--faults='bad=1'" in said
    assert "server_error" in said
