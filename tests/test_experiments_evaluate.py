"""`experiments.evaluate` as a command: what it writes, that nothing else decides it, how it stops and goes on."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time

import pytest
from commands import run_command
from rlao_runs import one_line

from benchmarks.kill_and_resume import ROOT, Command, ended

KEYS = """task split split_hash metric score accuracy n ci95 ci_method simulated executor_model usd calls prompt_tokens
    completion_tokens seconds sandbox items schema_version""".split()
TAKEN = ("seconds", "bought", "spent_in_run_dir", "faults_in_run_dir", "sandbox")
"""What it took to find out."""
MIXED = """
def solver(agent, task):
    kind = sum(map(ord, task)) % 6
    if kind == 0:
        raise KeyError("unlucky\\nquestion")
    if kind == 1:
        return {"answer": [1, 2]}
    replies = agent.call_llm(task + "\\nThink step by step. End with: Answer: <number>", num_of_response=3)
    again = agent.call_llm(task + "\\nThink step by step. End with: Answer: <number>", num_of_response=3)
    answers = [agent.extract_answer_str(reply) for reply in [*replies, *again]]
    return {"answer": max(answers, key=answers.count)}
"""


@pytest.fixture
def workflow(tmp_path):
    path = tmp_path / "mixed.py"
    path.write_text(MIXED)
    return path


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path / "no_agent", tmp_path / "no_compiled")


@pytest.fixture
def evaluate(workflow, tmp_path):
    """Runs the command on 30 items; returns what ended and the JSON that it wrote, if it wrote one."""

    def run(*flags, run_dir="run"):
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        done = run_command(
            *("evaluate", "--task=toy_units", f"--workflow={workflow}", "--validation_size=30"),
            *(f"--run_dir={tmp_path / run_dir}", f"--json_out={out}", "--sandbox_packages=", *flags),
        )
        return done, json.loads(out.read_text()) if out.exists() else None

    return run


def of_the_workflow(result):
    """What must not depend on how the evaluation was run."""
    return {key: value for key, value in result.items() if key not in TAKEN}


def test_the_result_is_as_documented_and_adds_up(evaluate):
    done, result = evaluate()
    assert done.returncode == 0, done.stderr
    assert set(KEYS) <= set(result)
    items = result["items"]
    statuses = [item["status"] for item in items]
    assert len({item["id"] for item in items}) == len(items) == result["n"] == 30
    assert set(statuses) == {"right", "wrong", "broke"}
    assert result["accuracy"] == statuses.count("right") / 30
    low, high = result["ci95"]
    assert 0 < low < result["accuracy"] < high < 1
    assert {item["error"] for item in items if item["status"] == "broke"} == {
        "KeyError: 'unlucky\\nquestion'",
        "answer must be str, int, float, bool or None, got list",
    }
    assert {(item["status"] == "broke", item["calls"]) for item in items} == {(True, 0), (False, 2)}
    assert result["calls"] == result["bought"]["calls"] == sum(item["calls"] for item in items)
    assert result["usd"] == pytest.approx(sum(item["usd"] for item in items))
    assert result["spent_in_run_dir"] == pytest.approx(result["usd"])
    (raised,) = {item["traceback"] for item in items if item["error"].startswith("KeyError")}
    assert "line 5, in solver" in raised
    assert '(line 5, in solver: raise KeyError("unlucky\\nquestion"))' in done.stdout
    for name in ("prompt_tokens", "completion_tokens"):
        assert result[name] == sum(item[name] for item in items)
    assert f"{result['accuracy']:.3f}" in done.stdout
    assert f"{statuses.count('broke')} broke" in done.stdout
    assert "simulated" in done.stdout


def test_neither_concurrency_nor_back_end_nor_neighbours_decide_anything(evaluate):
    _, wanted = evaluate()
    for number, flags in enumerate((["--concurrency=1"], ["--sandbox=guard"], ["--sandbox=process"])):
        done, result = evaluate(*flags, run_dir=f"other{number}")
        if done.returncode == 2 and "sandbox 'guard'" in done.stderr:
            continue  # not on this kernel; the sandbox's own tests say so
        assert of_the_workflow(result) == of_the_workflow(wanted)
    _, few = evaluate("--limit=7", run_dir="few")
    assert few["items"] == wanted["items"][:7]
    assert few["split_hash"] != wanted["split_hash"]
    _, again = evaluate("--repetition=1")
    assert again["bought"]["calls"] == wanted["calls"]  # other samples, so other calls
    assert again["items"] != wanted["items"]


def test_a_cap_stops_it_with_3_and_a_raised_one_goes_on_where_it_stopped(evaluate):
    _, wanted = evaluate(run_dir="without a cap")
    bought, stops = 0, 0
    for cap in (5, 20, wanted["calls"]):
        done, result = evaluate(f"--budget_calls={cap}", "--concurrency=4")
        bought += result["bought"]["calls"]
        assert bought <= cap
        if done.returncode == 3:
            stops += 1
            missing = [item for item in result["items"] if item["status"] == "not_evaluated"]
            assert result["not_evaluated"] == len(missing) == 30 - result["n"] > 0
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert f"{len(missing)} of 30 items were not evaluated" in line
            assert f"--budget_calls={cap}" in line
    assert stops == 2
    assert done.returncode == 0
    assert of_the_workflow(result) == of_the_workflow(wanted)
    assert bought == wanted["calls"]  # no reply was bought twice
    done, result = evaluate("--budget_calls=1")
    assert (done.returncode, result["bought"]["calls"]) == (0, 0)


def test_a_killed_evaluation_goes_on_and_buys_nothing_twice(command, workflow, tmp_path, evaluate):
    server = command.python(
        *("-m", "experiments.simulate", "--task=toy_units", "--validation_size=30", "--latency_scale=0.15")
    )
    try:
        while not (line := server.stdout.readline()).startswith("simulated executor at "):
            assert line, server.stderr.read()
        url = line.split()[3].rstrip(":")
        flags = [
            *("--executor=openai", f"--executor_base_url={url}", "--budget_usd=1", "--concurrency=4"),
            '--executor_prices={"simulated": {"input": 1, "output": 2}}',
        ]
        first = command.python(
            *("-m", "experiments.evaluate", "--task=toy_units", f"--workflow={workflow}", "--validation_size=30"),
            *(f"--run_dir={tmp_path / 'run'}", "--sandbox_packages=", *flags),
        )
        calls = tmp_path / "run" / "calls.sqlite"
        while len(keys(calls)) < 8:
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.02)
        first.kill()
        ended(first)
        kept = keys(calls)
        done, result = evaluate(*flags)
        assert done.returncode == 0, done.stderr
    finally:
        server.send_signal(signal.SIGINT)
        ended(server)
    assert kept <= keys(calls)
    with sqlite3.connect(calls) as db:
        (most,) = db.execute(
            "SELECT max(n) FROM (SELECT count(*) n FROM calls WHERE outcome='reply' GROUP BY key)"
        ).fetchone()
        (left,) = db.execute("SELECT count(*) FROM calls WHERE outcome = 'in_flight'").fetchone()
    assert most == 1
    assert (
        left == result["faults_in_run_dir"].get("in_flight", 0) <= 4
    )  # booked in full, since they may have been billed
    _, wanted = evaluate(run_dir="in the process")
    assert [item["status"] for item in result["items"]] == [item["status"] for item in wanted["items"]]
    assert [item["answer"] for item in result["items"]] == [item["answer"] for item in wanted["items"]]


def keys(calls):
    """Keys of the committed replies."""
    if not calls.exists():
        return set()
    with sqlite3.connect(calls) as db:
        try:
            return {key for (key,) in db.execute("SELECT key FROM replies")}
        except sqlite3.OperationalError:  # not made yet
            return set()


def test_an_executor_that_is_not_there_is_no_low_score(evaluate):
    done, result = evaluate(
        *("--executor=openai", "--executor_base_url=http://127.0.0.1:9/v1", "--budget_usd=1", "--max_attempts=2"),
        '--executor_prices={"simulated": {"input": 1, "output": 2}}',
    )
    line = one_line_beside_output(done)
    assert "items were not evaluated" in line
    assert "unreachable" in line
    assert {item["status"] for item in result["items"]} == {"broke", "not_evaluated"}  # some need no executor


def one_line_beside_output(done):
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_where_nothing_was_evaluated_there_is_no_accuracy(evaluate):
    done, result = evaluate("--budget_tokens=1", "--workflow=toy_cot")
    assert done.returncode == 3
    assert (result["n"], result["accuracy"], result["score"]) == (0, None, None)
    assert "nothing was evaluated" in done.stdout
    assert "accuracy" not in done.stdout


def test_the_result_goes_into_a_pipe_and_never_over_a_device_or_the_run(command, workflow, evaluate, tmp_path):
    done = command.python_to_end(
        *("-m", "experiments.evaluate", "--task=toy_units", f"--workflow={workflow}", "--validation_size=30"),
        *(f"--run_dir={tmp_path / 'run'}", "--sandbox_packages=", "--limit=1", "--json_out=/dev/stdout"),
    )
    assert '"schema_version": 1' in done.stdout
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    evaluate("--limit=1", f"--json_out={pipe}")
    assert json.loads(os.read(reader, 1 << 20))["n"] == 1
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "link").symlink_to(tmp_path / "out.json")
    assert evaluate("--limit=1", f"--json_out={tmp_path / 'link'}")[1]["n"] == 1
    assert (tmp_path / "link").is_symlink()
    done, _ = evaluate("--limit=1", f"--json_out={tmp_path / 'run' / 'outcomes.sqlite'}")
    assert "is a file of the run itself" in one_line_beside_output(done)
    assert evaluate("--limit=1")[0].returncode == 0


def test_a_fault_is_told_on_standard_error(evaluate):
    done, _ = evaluate(
        *("--executor=openai", "--executor_base_url=http://127.0.0.1:9/v1", "--budget_usd=1", "--max_attempts=2"),
        *("--workflow=toy_cot", "--limit=1"),
    )
    assert "WARNING: model 'simulated': unreachable" in done.stderr


def test_only_on_this_machine_is_a_model_named_simulated_believed_to_be(tmp_path):
    away = ("--executor=openai", "--executor_base_url=http://192.0.2.1/v1", "--workflow=toy_cot", "--task=toy_units")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", *away, f"--run_dir={tmp_path / 'run'}"],
        env={**os.environ, "OPENAI_API_KEY": "none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "lacks --executor_model" in one_line(done, 2)  # it is no model of that server


def test_the_test_split_is_opened_because_it_was_named_and_is_booked_apart(evaluate, tmp_path):
    done, result = evaluate("--split=test", "--test_size=5", "--workflow=toy_cot")
    assert done.returncode == 0, done.stderr
    assert (result["split"], result["n"]) == ("test", 5)
    with sqlite3.connect(tmp_path / "run" / "calls.sqlite") as db:
        assert db.execute("SELECT DISTINCT purpose FROM calls").fetchall() == [("test",)]


def test_the_worst_case_is_printed_and_nothing_is_begun(evaluate, tmp_path):
    done, case = evaluate("--dry_run", "--max_calls_per_item=10", "--executor_max_tokens=100")
    assert done.returncode == 0, done.stderr
    assert (case["calls"], case["completion_tokens"]) == (300, 30_000)
    assert "300" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workflow="], ["--workflow is empty", "FILE.py"]),
        (["--workflow=cott"], ["'cott'", "did you mean 'cot'"]),
        (["--workflow=missing.py"], ["missing.py", "cannot be read"]),
        (["--workflow=/etc/hostname"], ["'/etc/hostname'", "ends in .py"]),
        (["--task="], ["--task is empty"]),
        (["--task=toy"], ["names 7 tasks", "toy_small"]),
        (["--task=toy_unit"], ["toy_unit", "toy_units"]),
        (["--task=gsm_hard", "--data_dir=nowhere"], ["--data_dir=nowhere is no folder"]),
        (["--executor_prices=nowhere.json"], ["--executor_prices=nowhere.json is no file"]),
        (["--item_timeout=inf"], ["item_timeout=inf", "86400"]),
        (["--split=train", "--task=toy_units", "--validation_size=0", "--budget_usd=-1"], ["--budget_usd='-1'"]),
        (["--executor=openai", "--executor_model=gpt-4o-mini", "--budget_usd=1"], ["OPENAI_API_KEY", "export"]),
        (["--json_out=/proc/none/out.json"], ["/proc/none/out.json"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_bad_input_is_one_line(evaluate, flags, named):
    done, _ = evaluate(*flags)
    said = one_line_beside_output(done) if flags[0].startswith("--json_out") else one_line(done, 2)
    for words in named:
        assert words in said


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def solver(agent, task:\n", ":1:"),
        ("x = 1\n", "has no solver"),
        ("(" * 300 + ")" * 300, "too many nested parentheses"),
        ("-" * 50_000 + "1", "cannot be parsed"),
    ],
)
def test_a_file_that_holds_no_workflow_is_one_line(evaluate, workflow, code, named):
    workflow.write_text(code)
    done, _ = evaluate()
    assert named in one_line(done, 2)


def test_it_needs_no_jax():
    code = "import sys; sys.modules['jax'] = None; import experiments.evaluate"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
