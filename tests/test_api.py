"""The front door: calls from scripts, loops and threads; what they return, refuse and leave."""

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time

import openai
import pytest
from api_runs import PRICES, QUICK, ROWS, asked, both_models, serving
from commands import run_command

import w4s_jax
from benchmarks.kill_and_resume import ROOT
from w4s_jax.reports.intervals import share
from w4s_jax.types import BudgetExceededError, InputError

SOLVER = {"executor": "solver", "meta_agent": "writer", "budget_usd": 1.0, "prices": PRICES}


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture
def at_server(server, monkeypatch):
    """`OPENAI_BASE_URL` of the server of both models, which is empty of requests."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.requests.clear()
    return server


def optimize(tmp_path, data=ROWS, metric="numeric", **given):
    return w4s_jax.optimize(data, metric, **{"run_dir": tmp_path / "run", "num_turns": 2, **SOLVER, **QUICK, **given})


def left_behind():
    """Threads of ours that still live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(("w4s_jax", "asyncio"))]


# --- what a call returns ------------------------------------------------------


def test_a_search_returns_its_best_with_an_interval_and_what_it_cost(at_server, tmp_path):
    result = optimize(tmp_path)
    best = result.best
    assert "def solver(agent, task)" in best.code
    # 4 of the 12 rows are validation; the solver is wrong where the number is a multiple of three.
    assert best.n == 4
    assert best.score == round(best.score * 4) / 4
    assert best.interval == pytest.approx(share(round(best.score * 4), 4)[2:])
    assert (result.turns, result.stopped_by, len(result.history)) == (2, "turns", 3)
    assert result.seeds[0].score <= best.score
    assert {seed.name for seed in result.seeds} == {"cot", "cot_sc", "program"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result.summary == summary
    calls = len(at_server.requests)
    assert result.usd == pytest.approx(summary["usd"])
    # A reply of the writer costs 900 + 2 * 20 micro-USD, one of the solver 10 * 0.1 + 20 * 0.2, however many choices.
    spent = 940 * len(asked(at_server, "writer")) + 5 * len(asked(at_server, "solver"))
    assert result.usd == pytest.approx(spent * 1e-6)
    assert best.path.read_text().endswith(best.code.strip() + "\n")
    assert result.report.exists()
    assert "stopped by turns" in str(result)
    assert "result.test()" in str(result)
    assert "--" not in str(result)
    assert result._repr_html_().startswith("<pre>")
    assert left_behind() == []

    again = optimize(tmp_path)
    assert again.best.code == best.code
    assert len(at_server.requests) == calls  # nothing is bought twice


def test_a_callback_sees_each_turn_once_and_what_it_raises_is_the_callers(at_server, tmp_path):
    class Watch(w4s_jax.Callback):
        def __init__(self, last):
            self.seen, self.last = [], last

        def on_turn(self, finished):
            self.seen.append((finished.turn.turn, finished.best_score))
            if finished.turn.turn == self.last:
                raise ZeroDivisionError("mine")

    first, second = Watch(last=1), Watch(last=9)
    with pytest.raises(ZeroDivisionError, match="mine"):
        optimize(tmp_path, num_turns=3, callbacks=[first])
    result = optimize(tmp_path, num_turns=3, callbacks=[second])
    assert first.seen + second.seen == list(enumerate(result.history[1:]))


def test_the_best_answers_a_question_and_leaves_nothing_when_it_is_closed(at_server, tmp_path):
    result = optimize(tmp_path, num_turns=1)
    assert result.best("What is 20 + 20?") in ("40", 40)
    assert asked(at_server, "solver")[-1]["messages"][-1]["content"]
    result.close()
    assert left_behind() == []


def test_the_test_split_is_opened_once_by_the_result_alone(at_server, tmp_path):
    result = optimize(tmp_path, num_turns=1)
    assert "search" not in result.summary
    tested = result.test()
    calls = len(at_server.requests)
    assert tested.n == 8
    assert result.test() is tested
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["search"]["score"], summary["search"]["n"]) == (tested.score, 8)
    assert summary["seeds"]["score"] == tested.seed_score
    assert tested.gain == pytest.approx(tested.score - tested.seed_score)
    assert tested.gain_interval.low <= tested.gain <= tested.gain_interval.high
    again = optimize(tmp_path, num_turns=1)
    assert again.test().score == tested.score
    assert len(at_server.requests) == calls
    assert left_behind() == []


def test_a_cap_returns_what_was_found_and_a_higher_one_goes_on(at_server, tmp_path):
    whole = optimize(tmp_path, run_dir=tmp_path / "whole", num_turns=6)
    seeds = optimize(tmp_path, run_dir=tmp_path / "seeds", target=0.01)
    assert seeds.stopped_by == "target"
    capped = optimize(tmp_path, num_turns=6, budget_usd=(seeds.usd + whole.usd) / 2, max_new_tokens=200)
    assert capped.stopped_by == "budget"
    assert capped.turns < 6
    assert capped.best.score >= capped.seeds[0].score
    further = optimize(tmp_path, num_turns=6, max_new_tokens=200)
    assert (further.turns, further.stopped_by) == (6, "turns")


def test_a_cap_before_anything_is_there_is_an_error_in_words_of_calls(at_server, tmp_path):
    with pytest.raises(BudgetExceededError) as caught:
        optimize(tmp_path, budget_usd=1e-7)
    assert "budget_usd=1e-07 leaves no room" in str(caught.value)
    assert "make the same call again" in str(caught.value)
    assert "--" not in str(caught.value)


# --- where it is called from --------------------------------------------------


async def test_a_call_works_where_a_loop_is_running(at_server, tmp_path):
    assert optimize(tmp_path, num_turns=1).turns == 1  # as in a cell of a notebook

    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    result = await w4s_jax.aoptimize(ROWS, "numeric", num_turns=1, run_dir=tmp_path / "beside", **SOLVER, **QUICK)
    ticking.cancel()
    assert result.turns == 1
    assert ticks > 10  # the caller's loop went on
    assert await result.best.answer("What is 20 + 20?") in ("40", 40)
    result.close()


async def test_a_cancelled_call_saves_and_the_same_call_goes_on(at_server, tmp_path):
    call = asyncio.create_task(
        w4s_jax.aoptimize(ROWS, "numeric", num_turns=30, run_dir=tmp_path / "run", **SOLVER, **QUICK)
    )
    while not ((tmp_path / "run" / "trajectories.jsonl").exists() and turns_of(tmp_path / "run")):
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    stored = turns_of(tmp_path / "run")
    assert left_behind() == []
    result = optimize(tmp_path, num_turns=len(stored) + 1)
    assert turns_of(tmp_path / "run")[: len(stored)] == stored
    assert result.turns == len(stored) + 1


def turns_of(run_dir):
    return (run_dir / "trajectories.jsonl").read_text().splitlines()


def test_two_threads_search_at_once(at_server, tmp_path):
    own = csv_of(tmp_path)  # the name of the task decides which cases the meta-agent is shown
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(optimize, tmp_path, own, run_dir=tmp_path / name) for name in ("one", "two")]
        first, second = (run.result() for run in runs)
    assert first.best.code == second.best.code
    assert first.run_dir != second.run_dir
    assert turns_of(first.run_dir) == turns_of(second.run_dir)


def csv_of(tmp_path):
    rows = "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
    path = tmp_path / "questions.csv"
    path.write_text(f"question,answer\n{rows}")
    return path


def test_one_run_directory_takes_one_call_at_a_time(at_server, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        run = threads.submit(optimize, tmp_path, num_turns=20)
        while not asked(at_server, "writer"):
            time.sleep(0.01)
        with pytest.raises(InputError, match=r"run_dir=\S+ is in use by another"):
            optimize(tmp_path)
        assert run.result().turns == 20


SCRIPT = """
import sys, threading, w4s_jax
result = w4s_jax.optimize({data!r}, "numeric", executor="solver", meta_agent="writer", budget_usd=1.0,
                          prices={prices!r}, num_turns={turns}, run_dir="run", num_candidates=2, sandbox_packages=())
print("found", result.turns, result.stopped_by, result.best.score > 0, threading.active_count())
print(result)
"""


def script(tmp_path, server, turns, data="questions.csv"):
    csv_of(tmp_path)
    (tmp_path / "mine.py").write_text(SCRIPT.format(data=data, prices=PRICES, turns=turns))
    return subprocess.Popen(
        [sys.executable, "mine.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": server.base_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_plain_script_needs_no_guard_and_no_loop(server, tmp_path):
    process = script(tmp_path, server, turns=1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.startswith("found 1 turns True 1\n")  # the main thread alone is left
    assert "search on jsonl:questions.csv (turns): 1/1" in err


def test_ctrl_c_returns_what_is_there_and_the_same_call_goes_on(server, tmp_path):
    process = script(tmp_path, server, turns=200)
    stored = tmp_path / "run" / "trajectories.jsonl"
    while not (stored.exists() and turns_of(tmp_path / "run")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = out.splitlines()[0].split()
    assert found[0] == "found"
    assert found[2:] == ["interrupted", "True", "1"]
    assert "stopped by interrupted; the same call goes on" in out
    assert "stopping: finishing" in err
    turns = int(found[1])
    assert turns == len(turns_of(tmp_path / "run"))
    process = script(tmp_path, server, turns=turns + 1)
    out, err = process.communicate(timeout=120)
    assert out.startswith(f"found {turns + 1} turns")
    assert f"resuming, {turns} turns stored" in err


def test_ctrl_c_before_anything_is_there_says_how_to_go_on(tmp_path):
    def slow(body, headers, attempt):
        time.sleep(0.5)
        return both_models(body, headers, attempt)

    with serving(slow) as server:
        process = script(tmp_path, server, turns=1)
        while not server.requests:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.splitlines()[-1] == (
        "KeyboardInterrupt: stopped; everything finished is stored. The same call with run_dir='run' goes on."
    )


# --- the same run by a command ------------------------------------------------


def test_the_command_and_the_call_leave_equal_files(at_server, tmp_path):
    """Everything but the paths and the seconds."""
    own = csv_of(tmp_path)
    optimize(tmp_path, data=own, run_dir=tmp_path / "call", test=True)
    done = run_command(
        "optimize",
        *(f"--task=jsonl:{own}", "--scorer=numeric", "--executor=openai", "--executor_model=solver"),
        *("--meta_agent=api:writer", "--budget_usd=1", f"--executor_prices={json.dumps(PRICES, sort_keys=True)}"),
        *("--num_turns=2", "--num_candidates=2", "--sandbox_packages=", "--test", f"--run_dir={tmp_path / 'command'}"),
    )
    assert done.returncode == 0, done.stderr
    call, command = tmp_path / "call", tmp_path / "command"
    names = ["run.flags", "trajectories.jsonl", *sorted(f"workflows/{p.name}" for p in (call / "workflows").iterdir())]
    assert [n for n in names if (call / n).read_bytes() != (command / n).read_bytes()] == []
    first, second = (json.loads((path / "summary.json").read_text().replace(str(path), "")) for path in (call, command))
    first.pop("seconds")
    second.pop("seconds")
    assert first == second


def test_rows_of_memory_are_kept_so_that_a_command_re_runs_the_run(at_server, tmp_path):
    result = optimize(tmp_path)
    assert [json.loads(line) for line in (tmp_path / "run" / "data.jsonl").read_text().splitlines()] == ROWS
    calls = len(at_server.requests)
    done = run_command("optimize", f"--flagfile={tmp_path / 'run' / 'run.flags'}", f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert f"{result.best.score:.3f}" in done.stdout
    assert len(at_server.requests) == calls
    with pytest.raises(InputError, match="holds a run on other rows"):
        optimize(tmp_path, data=ROWS[1:])


def test_what_no_command_line_can_give_is_refused_by_the_command(at_server, tmp_path):
    def close(answer, target):
        return abs(float(answer) - target) < 0.5

    client = openai.AsyncOpenAI(api_key="sk-mine", base_url=at_server.base_url)
    for name, given in (
        ("scorer", {"metric": close}),
        ("executor_base_url", {"executor": (client, "solver")}),
    ):
        run_dir = tmp_path / name
        optimize(tmp_path, run_dir=run_dir, num_turns=1, **given)
        comments = [line for line in (run_dir / "run.flags").read_text().splitlines() if line.startswith("#")]
        assert len(comments) >= 2
        done = run_command("optimize", f"--flagfile={run_dir / 'run.flags'}", f"--run_dir={run_dir}")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --{name} was ")
        assert "call w4s_jax again" in done.stderr
        assert done.stderr.count("\n") == 1


# --- misuse ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run_dir": 7}, r"run_dir=7 is a int; give a folder's path"),
        ({"run_dir": None}, r"run_dir=None is a NoneType"),
        ({"run_dir": "a\0b"}, r"is no path \(.*null byte\)"),
        ({"run_dir": "x" * 300}, r"is no path \(.*too long"),
        ({"run_dir": __file__}, r"is a file; give a folder"),
        ({"callbacks": 7}, r"callbacks=7 are no w4s_jax.Callbacks"),
        ({"callbacks": [w4s_jax.Callback]}, r"are no w4s_jax.Callbacks; give a list of them, made"),
    ],
)
def test_what_is_no_folder_and_no_callback_is_refused_in_one_line(tmp_path, given, message):
    with pytest.raises(InputError, match=message) as caught:
        optimize(tmp_path, **given)
    assert "\n" not in str(caught.value)


def test_a_silent_call_has_a_silent_test(at_server, tmp_path, capfd):
    result = optimize(tmp_path, progress=False, num_turns=1)
    result.test()
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_that_wakes_nobody_is_seen(at_server, tmp_path):
    def slow(answer, target):
        time.sleep(0.1)
        return True

    # An interrupt raised on another thread sets a mark and leaves the main thread waiting on its lock.
    timer = threading.Timer(2.0, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    result = optimize(tmp_path, metric=slow, num_turns=500)
    timer.join()
    assert result.stopped_by == "interrupted"
    assert result.turns < 500
