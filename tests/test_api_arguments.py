"""What a call can be given: questions, metrics, models and options; what it refuses, in one line of its own words."""

import asyncio
import dataclasses
import functools
import json
import threading

import datasets
import openai
import pandas
import pytest
from api_runs import PRICES, QUICK, ROWS, VOTE, asked, serving

import w4s_jax
from w4s_jax.run.arguments import as_field, words_of_calls
from w4s_jax.run.data import open_questions, write_rows
from w4s_jax.run.endpoints import executor_endpoint, meta_agent_endpoint
from w4s_jax.run.progress import SILENT, Display, Progress, note, shown_on
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.registry import make_task
from w4s_jax.tasks.scoring.user import function_digest
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, W4sError
from w4s_jax.workflows import load_seed


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture
def evaluate(server, tmp_path, monkeypatch):
    """Evaluates a seed with the solver of the server."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.requests.clear()

    def run(data=ROWS, metric="numeric", workflow="cot", **given):
        options = {"sandbox_packages": (), "progress": False, "prices": PRICES, "budget_usd": 1.0, "executor": "solver"}
        return w4s_jax.evaluate(workflow, data, metric, **{"run_dir": tmp_path / "run", **options, **given})

    return run


# --- evaluation -----------------------------------------------------------------


def test_an_evaluation_counts_what_is_right(evaluate, server):
    result = evaluate(split="test")
    wrong = [item["id"] for item in result.items if int(item["id"].split("/")[1]) % 3 == 0]
    assert {item["id"] for item in result.items if item["score"] == 0} == set(wrong)
    assert result.n == 8
    assert result.score == result.accuracy == (8 - len(wrong)) / 8
    assert result.interval.low < result.score < result.interval.high
    assert result.usd == pytest.approx(8 * 5e-6)
    assert result.usd_per_item == pytest.approx(5e-6)
    assert (result.not_evaluated, result.stopped_by) == (0, "")
    assert "--" not in str(result)
    calls = len(server.requests)
    assert evaluate(split="test").items == result.items
    assert len(server.requests) == calls


def test_a_workflow_is_a_name_a_path_source_or_what_holds_one(evaluate, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(VOTE)
    seed = load_seed("cot_sc")
    found = [evaluate(workflow=given).items for given in ("cot_sc", path, str(path), VOTE, seed)]
    assert found == [found[0]] * 5
    for given, message in (
        ("nothing", "seed workflow 'nothing' is unknown"),
        ("def solver(:\n  x", "invalid syntax"),
        ("x = 1\n", "has no solver"),
        (7, "workflow=7 is a int; give a path"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(workflow=given)


def test_a_cap_leaves_items_out_and_a_higher_one_evaluates_them(evaluate, server):
    partial = evaluate(split="test", budget_calls=3)
    assert (partial.n, partial.not_evaluated, partial.stopped_by) == (3, 5, "budget")
    whole = evaluate(split="test")
    assert (whole.n, whole.not_evaluated, whole.stopped_by) == (8, 0, "")
    assert len(server.requests) == 8  # nothing was bought twice
    with pytest.raises(w4s_jax.BudgetExceededError, match=r"budget_usd=1e-09 leaves no room"):
        evaluate(budget_usd=1e-9)


async def test_an_evaluation_waits_beside_a_loop(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    found = await asyncio.gather(
        *(
            w4s_jax.aevaluate(
                "cot", ROWS, "numeric", executor="solver", budget_usd=1, prices=PRICES, progress=False,
                sandbox_packages=(), run_dir=tmp_path / name,
            )
            for name in ("one", "two")
        )
    )  # fmt: skip
    assert found[0].score == found[1].score


# --- data -----------------------------------------------------------------------


def test_rows_may_be_a_list_a_data_set_or_a_data_frame(evaluate):
    found = [
        evaluate(data).items
        for data in (ROWS, tuple(ROWS), iter(ROWS), datasets.Dataset.from_list(ROWS), pandas.DataFrame(ROWS))
    ]
    assert found == [found[0]] * 5


def test_other_rows_are_kept_beside_those_of_an_evaluation(evaluate, tmp_path):
    evaluate()
    evaluate(ROWS[:6])
    assert len(list((tmp_path / "run").glob("data*.jsonl"))) == 2


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    frame = pandas.DataFrame([{"question": "?", "answer": 3}])
    path = write_rows([{"question": "?", "answer": frame["answer"][0]}], tmp_path)
    assert json.loads(path.read_text()) == {"question": "?", "answer": 3}


def test_a_task_is_a_name_or_an_object(evaluate):
    made = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=5, test=5)))
    by_name = evaluate("toy_units", None, validation_size=5, test_size=5, executor=w4s_jax.Simulated(), budget_usd=None)
    by_object = evaluate(made, None, executor=w4s_jax.Simulated(), budget_usd=None)
    assert by_name.items == by_object.items


@pytest.mark.parametrize(
    ("data", "metric", "options", "message"),
    [
        ("", None, {}, "data='' is empty"),
        ("own.csv", None, {}, "data file own.csv does not exist"),
        ("gsm_hrad", None, {}, "did you mean 'gsm_hard'"),
        ([], None, {}, "data has no rows"),
        (["a"], None, {}, "data: row 1 is 'a', a str"),
        ({"train": ROWS}, None, {}, "data is a dict of train; give one part of it"),
        (7, None, {}, "data=7 is a int; give a path"),
        ([{"question": "?", "answer": object()}], None, {}, "data: row 1: field 'answer' is <object"),
        ([{"question": "?", "answer": float("nan")}], None, {}, "data: row 1: field 'answer' is nan"),
        ([{"frage": "?", "answer": 1}], "numeric", {}, "field 'question' is missing"),
        ("toy_units", "numeric", {}, "metric is of data=jsonl:PATH, and toy_units is none; drop it"),
        ("toy_units", lambda answer, target: True, {}, "is of rows and files of your own; toy_units grades itself"),
        (ROWS, "numric", {}, "did you mean 'numeric'"),
        (ROWS, 7, {}, "metric=7 is a int; give a scorer's name or a function"),
        (ROWS, lambda answer: True, {}, r"cannot be called as metric\(answer, target\)"),
        (ROWS, None, {"test_sze": 3}, "argument test_sze=3 is unknown; did you mean test_size?"),
        (ROWS, None, {"task": "gsm8k"}, "task='gsm8k' is not an argument; give it as data="),
        (ROWS, None, {"test_size": "3"}, "test_size='3' is a str; give a whole number"),
        (ROWS, None, {"sandbox": "vm"}, "sandbox=vm is not known"),
        (ROWS, None, {"executor": ""}, "executor='' is empty"),
        (ROWS, None, {"executor": 7}, "executor=7 is a int"),
        (ROWS, None, {"executor": "unheard-of", "prices": None}, "give it in USD per million tokens, prices="),
        (ROWS, None, {"budget_usd": None}, r"there is no cap; give budget_usd=<USD>, or budget_usd=float\('inf'\)"),
        (ROWS, None, {"budget_usd": "2"}, "budget_usd='2' is a str"),
        (ROWS, None, {"budget_usd": -1}, "budget_usd='-1' is not a positive number"),
        (ROWS, None, {"split": "dev"}, "split='dev' is unknown; give one of train, validation, test"),
        (ROWS, None, {"limit": -1}, "limit=-1 is not allowed"),
        (ROWS, None, {"executor": ("client", "model")}, "executor has a str as its client"),
        (ROWS, None, {"prices": {"m": 3}}, r"prices=\{'m': 3\} cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_line_in_words_of_calls(evaluate, data, metric, options, message):
    with pytest.raises(W4sError, match=message) as caught:
        evaluate(data, metric, **options)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


def test_a_task_object_takes_no_metric_and_no_splits():
    task = make_task("toy_units", TaskOptions(sizes=SplitSizes(validation=5, test=5)))
    with pytest.raises(InputError, match="metric is given beside the task toy_units"):
        open_questions(task, "exact", {})
    with pytest.raises(InputError, match="test_size is given beside the task toy_units"):
        open_questions(task, None, {"test_size": 3})


# --- metrics of the program -------------------------------------------------------


def test_a_function_grades_off_the_loop_one_answer_at_a_time(evaluate):
    threads, together, most = set(), 0, 0

    def half(answer, target):
        nonlocal together, most
        together += 1
        most = max(most, together)
        threads.add(threading.current_thread())
        together -= 1
        return 0.5 if float(answer) != target else True

    result = evaluate(metric=half, split="test")
    wrong = sum(int(item["id"].split("/")[1]) % 3 == 0 for item in result.items)
    assert result.score == (8 - wrong / 2) / 8
    assert result.accuracy == (8 - wrong) / 8
    assert most == 1
    assert threading.main_thread() not in threads
    low, high = result.interval
    assert low < result.score < high


def test_an_error_in_a_function_is_the_callers_and_names_it(evaluate):
    def broken(answer, target):
        raise KeyError("units")

    with pytest.raises(
        InputError, match=r"your own function .*broken \(sha256 \w+\), on item data/\d+: it raised KeyError"
    ):
        evaluate(metric=broken)

    async def later(answer, target):
        return True

    with pytest.raises(InputError, match="is asynchronous; write it with `def`"):
        evaluate(metric=later)


def test_outcomes_under_another_function_are_other_outcomes(evaluate):
    def make(value):
        return lambda answer, target: value

    assert evaluate(metric=make(1.0)).score == 1.0
    assert evaluate(metric=make(0.0)).score == 0.0
    assert evaluate(metric=make(1.0)).score == 1.0


def test_a_functions_digest_is_of_what_it_does():
    def near(answer, target, by=1):
        return abs(answer - target) < by

    class Within:
        def __call__(self, answer, target):
            return True

    assert function_digest(near) == function_digest(near)
    different = [near, functools.partial(near, by=2), functools.partial(near, by=3), Within(), str.__eq__]
    assert len(set(map(function_digest, different))) == len(different)


# --- models -----------------------------------------------------------------------


def test_names_of_models(tmp_path):
    assert executor_endpoint("gpt-4o-mini").values == {"executor": "openai", "executor_model": "gpt-4o-mini"}
    assert executor_endpoint("org/model").values["executor_model"] == "org/model"
    assert executor_endpoint(w4s_jax.Simulated()).values["executor"] == "simulated"
    agents = {
        "tiny": "tiny",
        "gpt-4o": "api:gpt-4o",
        "api:org/model": "api:org/model",
        "Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B",
    }
    assert {name: meta_agent_endpoint(name).values["meta_agent"] for name in agents} == agents
    assert meta_agent_endpoint(tmp_path).values["meta_agent"] == str(tmp_path)
    assert meta_agent_endpoint(str(tmp_path)).values["meta_agent"] == str(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        meta_agent_endpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match="writes no workflows"):
        meta_agent_endpoint(w4s_jax.Simulated())
    with pytest.raises(InputError, match="lacks a model"):
        executor_endpoint(openai.AsyncOpenAI(api_key="sk-a"))


def test_a_client_is_asked_by_its_own_key_and_address_in_every_call(server, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    server.requests.clear()
    client = openai.AsyncOpenAI(api_key="sk-mine", base_url=server.base_url, default_headers={"X-Team": "blue"})
    result = w4s_jax.optimize(
        ROWS, "numeric", executor=(client, "solver"), meta_agent="writer", budget_usd=1.0, prices=PRICES,
        num_turns=1, run_dir=tmp_path / "run", **QUICK,
    )  # fmt: skip
    assert {(h["Authorization"], h["X-Team"]) for _, h in server.requests} == {("Bearer sk-mine", "blue")}
    assert len(asked(server, "writer")) == 2  # the meta-agent is at the executor's address where it has none of its own
    assert result.test().n == 8
    assert result.best("What is 20 + 20?") in ("40", 40)
    result.close()
    assert "sk-mine" not in (tmp_path / "run" / "run.flags").read_text()
    assert asyncio.run(lives(client))


async def lives(client):
    """Whether the caller's client still works: it was copied, not used."""
    reply = await client.chat.completions.create(
        model="solver", messages=[{"role": "user", "content": "What is 1 + 1?"}]
    )
    await client.close()
    return reply.choices[0].message.content == "Answer: 2"


def test_a_missing_key_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.org/v1")
    with pytest.raises(InputError, match=r"OPENAI_API_KEY is not set and https://\S+ needs a key"):
        w4s_jax.evaluate("cot", ROWS, "numeric", executor="gpt-4o-mini", budget_usd=1, run_dir=tmp_path, progress=False)


# --- words ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "of_calls"),
    [
        ("--task=x is wrong; see --task", "data=x is wrong; see data"),
        ("a run with other flags: --seed=0 became --seed=1", "a run with other options: seed=0 became seed=1"),
        ("pass --test, or --notest", "pass test=True, or test=False"),
        ("use --sandbox=auto or pass --allow_unsafe_sandbox", "use sandbox=auto or pass allow_unsafe_sandbox=True"),
        ("git describe --always", "git describe --always"),
        ("raise --budget_usd and run the same command again", "raise budget_usd and make the same call again"),
    ],
)  # fmt: skip
def test_texts_about_flags_in_words_of_calls(text, of_calls):
    assert words_of_calls(text) == of_calls


def test_texts_about_flags_in_fields_of_the_config():
    assert words_of_calls("raise --budget_usd or --tau", as_field) == "raise budget.usd or training.tau"


# --- progress ---------------------------------------------------------------------


class Stream:
    """Of a terminal, or of a notebook, which is one whose class is of ipykernel."""

    def __init__(self, terminal):
        self.text, self._terminal = "", terminal

    def isatty(self):
        return self._terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class OutStream(Stream):
    pass


OutStream.__module__ = "ipykernel.iostream"


def shown(stream):
    with shown_on(dataclasses.replace(Display.of(stream), every_seconds=0.0)), Progress("items", 10) as progress:
        progress.advance(5, best="0.500")
        progress.advance(5, best="1")
    return stream.text


def test_a_terminal_has_one_live_line_a_notebook_too_and_a_pipe_has_lines():
    first, last = "items: 5/10  0 s  best 0.500", "items: 10/10  0 s  best 1"
    assert shown(Stream(True)) == f"\r\x1b[2K{first}\r\x1b[2K{last}\r\x1b[2K{last}\n"
    assert shown(OutStream(False)) == f"\r{first}\r{last}   \r{last}\n"  # blanks cover what was longer
    assert shown(Stream(False)) == f"{first}\n{last}\n"  # nothing is said twice


def test_where_progress_is_shown_is_of_a_context(capsys):
    with shown_on(SILENT):
        note("nobody")
        thread = threading.Thread(target=note, args=("somebody",))  # another context
        thread.start()
        thread.join()
    assert capsys.readouterr().err == "somebody\n"


def test_progress_can_be_off(evaluate, capfd):
    evaluate()
    assert capfd.readouterr().err == ""
    evaluate(progress=True)
    assert "items: 4/4" in capfd.readouterr().err
