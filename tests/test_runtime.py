"""A finished workflow with any OpenAI-compatible client: sandboxed, without JAX; what goes wrong is said as it is."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from fakes import FakeServer, completion, refusal

import w4s_jax
from benchmarks.kill_and_resume import ROOT
from w4s_jax.runtime import WorkflowError
from w4s_jax.types import InputError, SandboxError

VOTE = """
def solver(agent, task):
    replies = agent.call_llm(task, temperature=0.8, num_of_response=3)
    answers = [agent.extract_answer_str(reply) for reply in replies]
    return {"answer": max(answers, key=answers.count)}
"""


class Client:
    """Has `chat.completions.create`, and remembers what it was asked."""

    def __init__(self, answer):
        self.asked = []
        self.chat = SimpleNamespace(completions=self)
        self._answer = answer

    def create(self, **payload):
        self.asked.append(payload)
        texts = self._answer(payload)
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=t)) for t in texts])


@pytest.fixture
def load(tmp_path):
    """Writes a workflow file and loads it; everything is closed at the end."""
    with contextlib.ExitStack() as stack:

        def made(code, **options):
            (tmp_path / "best.py").write_text(code)
            return stack.enter_context(w4s_jax.load_workflow(tmp_path / "best.py", packages=(), workers=1, **options))

        yield made


def votes(payload):
    return ["It is 5.", "It is 4.", "It is 4."][: payload.get("n", 1)]


def test_a_question_is_answered_by_the_clients_model(load):
    client = Client(votes)
    workflow = load(VOTE, client=client, model="m")
    assert workflow("2 + 2?") == "4"
    assert client.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}], "temperature": 0.8, "n": 3}
    ]
    assert workflow.name == "best"
    assert workflow.code == VOTE


def test_client_and_model_may_come_with_the_question(load):
    client = Client(votes)
    workflow = load(VOTE)
    with pytest.raises(InputError, match="workflow best has no client; give client="):
        workflow("2 + 2?")
    with pytest.raises(InputError, match="workflow best has no model"):
        workflow("2 + 2?", client=client)
    assert workflow("2 + 2?", client=client, model="other") == "4"
    assert client.asked[0]["model"] == "other"


async def test_the_clients_of_the_openai_package_work_and_what_a_model_does_not_take_is_left_out(load):
    def script(body, headers, attempt):
        if "temperature" in body:
            return refusal("Unsupported parameter: 'temperature'", param="temperature")
        if body.get("n", 1) > 1:
            return refusal("only one choice is supported", param="n")
        return completion("It is 4.")

    async with FakeServer(script) as server:
        with openai.OpenAI(api_key="k", base_url=server.base_url) as client:
            assert await load(VOTE, client=client, model="m").answer("2 + 2?") == "4"
        async with openai.AsyncOpenAI(api_key="k", base_url=server.base_url) as client:
            workflow = load(VOTE, client=client, model="m")
            assert await asyncio.gather(*[workflow.answer("2 + 2?") for _ in range(3)]) == ["4"] * 3
    bodies = [body for body, _ in server.requests]
    assert [("temperature" in body, body.get("n", 1)) for body in bodies[:5]] == [
        (True, 3), (False, 3), (False, 1), (False, 1), (False, 1),
    ]  # fmt: skip


def test_an_asynchronous_client_serves_a_synchronous_caller(load):
    assert load(VOTE, client=Async(votes), model="m")("2 + 2?") == "4"


def test_a_server_that_answers_with_fewer_choices_is_asked_again(load):
    client = Client(lambda payload: ["It is 4."])
    assert load(VOTE, client=client, model="m")("2 + 2?") == "4"
    assert [payload.get("n", 1) for payload in client.asked] == [3, 1, 1]


def test_a_workflow_that_raises_says_where(load):
    workflow = load("def solver(agent, task):\n    return {'answer': nothing}\n", client=Client(votes), model="m")
    with pytest.raises(WorkflowError, match="workflow best broke: NameError: name 'nothing'") as error:
        workflow("?")
    assert "line 2, in solver" in error.value.traceback


def test_an_error_of_the_client_is_raised_as_it_is_even_where_the_workflow_catches_it(load):
    def fail(payload):
        raise ConnectionResetError("gone")

    swallows = """
def solver(agent, task):
    try:
        agent.call_llm(task)
    except Exception:
        pass
    return {"answer": "a guess"}
"""
    with pytest.raises(ConnectionResetError, match="gone"):
        load(swallows, client=Client(fail), model="m")("?")


def test_a_question_may_ask_for_so_many_choices_only(load):
    client = Client(lambda payload: ["x"] * payload.get("n", 1))
    greedy = "def solver(agent, task):\n    while True:\n        agent.call_llm(task, num_of_response=2)\n"
    with pytest.raises(WorkflowError, match="1 choices left of this question; ask for fewer"):
        load(greedy, client=client, model="m", max_calls=5)("?")
    assert len(client.asked) == 2


def test_a_workflow_cannot_read_the_key_or_write_a_file(load, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    thief = f"""
import os
def solver(agent, task):
    try:
        open({str(tmp_path / "stolen")!r}, "w").write("x")
    except OSError:
        pass
    return {{"answer": os.environ.get("OPENAI_API_KEY", "nothing")}}
"""
    assert load(thief, client=Client(votes), model="m")("?") == "nothing"
    assert not (tmp_path / "stolen").exists()


def test_questions_of_several_threads_are_answered_side_by_side(load):
    gate = threading.Barrier(40, timeout=20)  # broken, unless forty calls are on their way at once

    def together(payload):
        gate.wait()
        return [payload["messages"][0]["content"]]

    echo = "def solver(agent, task):\n    return {'answer': agent.call_llm(task)[0]}\n"
    workflow = load(echo, client=Client(together), model="m")
    questions = [str(number) for number in range(40)]
    with ThreadPoolExecutor(40) as threads:
        assert list(threads.map(workflow, questions)) == questions


def test_code_gets_its_entry_point_and_its_public_tests(load):
    client = Client(lambda payload: ["```python\ndef double(x):\n    return 2 * x\n```"])
    code = """
def solver(agent, task, entry_point):
    tested = agent.test_on_public_test(task, "def double(x): return x", entry_point, 1)
    return {"answer": tested["solution"] + str(tested["result"])}
"""
    workflow = load(code, client=client, model="m")
    answer = workflow("Double it.", entry_point="double", public_tests=["assert double(2) == 4"])
    assert answer == "def double(x):\n    return 2 * xTrue"


def test_no_jax_is_needed(tmp_path):
    (tmp_path / "best.py").write_text(VOTE)
    program = f"""
import sys
for name in ("jax", "flax", "optax", "transformers", "datasets", "pyarrow", "matplotlib"):
    sys.modules[name] = None
import w4s_jax
from types import SimpleNamespace as N
choice = N(message=N(content="It is 4."))
client = N(chat=N(completions=N(create=lambda **payload: N(choices=[choice] * payload["n"]))))
with w4s_jax.load_workflow({str(tmp_path / "best.py")!r}, client=client, model="m") as workflow:
    print(workflow("2 + 2?"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


@pytest.mark.parametrize(
    ("name", "message"), [("none.py", "cannot be read"), ("bad.py", "bad.py:1"), ("empty.py", "has no solver")]
)
def test_a_file_that_is_no_workflow_is_refused_when_it_is_loaded(tmp_path, name, message):
    (tmp_path / "bad.py").write_text("def solver(:\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=message):
        w4s_jax.load_workflow(tmp_path / name)


async def test_a_closed_workflow_starts_anew_with_the_next_question(load):
    workflow = load(VOTE, client=Client(votes), model="m")
    assert await asyncio.gather(workflow.answer("1?"), workflow.answer("2?")) == ["4", "4"]
    workflow.close()
    assert workflow("3?") == "4"


# --- clients that misbehave -----------------------------------------------------

ECHO = "def solver(agent, task):\n    return {'answer': agent.call_llm(task)[0]}\n"


class Async(Client):
    """The same, with coroutines."""

    async def create(self, **payload):
        await asyncio.sleep(0)
        return super().create(**payload)


def raising(error):
    """Answers every question but the bad one."""

    def answer(payload):
        if payload["messages"][0]["content"] == "bad":
            raise error
        return ["fine"]

    return answer


ENDINGS = [SystemExit(3), KeyboardInterrupt("by hand"), GeneratorExit()]
"""What ends a thread, a loop or a generator where it is raised."""
TAKEN_FOR_ANOTHER = [StopIteration(7), StopAsyncIteration(), asyncio.CancelledError()]
"""What Python takes for an end of iteration, or for a cancellation."""


@pytest.mark.parametrize("kind", [Client, Async])
@pytest.mark.parametrize("error", ENDINGS, ids=repr)
def test_what_a_client_raises_reaches_the_caller_as_it_is_and_ends_no_other_question(load, error, kind):
    workflow = load(ECHO, client=kind(raising(error)), model="m")
    assert workflow("before") == "fine"
    loop = workflow._sandboxed._running.loop
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(workflow, f"good {i}") for i in range(4)]
        with pytest.raises(type(error)) as caught:
            workflow("bad")
        assert [other.result(timeout=30) for other in others] == ["fine"] * 4
    assert caught.value is error
    assert workflow("good") == "fine"
    assert workflow._sandboxed._running.loop is loop


@pytest.mark.parametrize("kind", [Client, Async])
@pytest.mark.parametrize("error", ENDINGS[:2], ids=repr)
async def test_it_reaches_who_awaits_the_answer_and_leaves_the_loop_running(load, error, kind):
    workflow = load(ECHO, client=kind(raising(error)), model="m")

    async def asked(question):
        try:
            return await workflow.answer(question)
        except type(error) as caught:
            return caught

    assert await asyncio.gather(asked("good"), asked("bad"), asked("also good")) == ["fine", error, "fine"]


@pytest.mark.parametrize("kind", [Client, Async])
@pytest.mark.parametrize("error", TAKEN_FOR_ANOTHER, ids=repr)
def test_what_would_be_taken_for_an_end_or_a_cancellation_is_said_to_be_the_clients(load, error, kind):
    workflow = load(ECHO, client=kind(raising(error)), model="m")
    answers = map(workflow, ["good", "bad", "never asked"])
    assert next(answers) == "fine"
    if kind is Async and isinstance(error, StopIteration):  # Python itself turns it into this inside a coroutine
        message = "coroutine raised StopIteration"
    else:
        message = f"the client raised {type(error).__name__}"
    with pytest.raises(RuntimeError, match=message) as caught:
        next(answers)  # a StopIteration would have ended the map, and nobody would know
    assert caught.value.__cause__ is error
    assert workflow("good") == "fine"


def test_the_exit_of_a_client_ends_the_question_even_where_the_workflow_catches_everything(load):
    stubborn = """
def solver(agent, task):
    try:
        return {"answer": agent.call_llm(task)[0]}
    except BaseException:
        return {"answer": "caught"}
"""
    with pytest.raises(SystemExit):
        load(stubborn, client=Client(raising(SystemExit(3))), model="m")("bad")


def test_an_interrupted_wait_ends_its_question(load):
    hang, ended = threading.Event(), threading.Event()

    class Waiting(Client):
        async def create(self, **payload):
            self.asked.append(payload)
            hang.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

    workflow = load(ECHO, client=Waiting(votes), model="m")
    threading.Thread(
        target=lambda: (hang.wait(30), signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)), daemon=True
    ).start()
    with pytest.raises(KeyboardInterrupt):
        workflow("?")
    assert ended.wait(20)


def test_a_client_that_hangs_holds_up_neither_the_close_nor_its_question(load):
    hang = threading.Event()
    workflow = load(ECHO, client=Client(lambda payload: hang.wait(60)), model="m")
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(workflow, "?")
        while not workflow._model.client.asked:
            time.sleep(0.01)
        begun = time.monotonic()
        workflow.close()
        with pytest.raises(SandboxError, match="closed while it answered"):
            asked.result(timeout=20)
        assert time.monotonic() - begun < 20
    hang.set()


def test_a_program_ends_though_its_client_hangs(tmp_path):
    (tmp_path / "w.py").write_text(ECHO)
    program = f"""
import threading, time, w4s_jax
from types import SimpleNamespace as N
client = N(chat=N(completions=N(create=lambda **payload: time.sleep(600))))
workflow = w4s_jax.load_workflow({str(tmp_path / "w.py")!r}, client=client, model="m", packages=(), workers=1)
threading.Thread(target=workflow, args=("?",), daemon=True).start()
time.sleep(1)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_forked_child_starts_a_sandbox_of_its_own(tmp_path):
    (tmp_path / "w.py").write_text(ECHO)
    program = f"""
import os, w4s_jax
from types import SimpleNamespace as N
reply = lambda **payload: N(choices=[N(message=N(content="from " + payload["messages"][0]["content"]))])
client = N(chat=N(completions=N(create=reply)))
workflow = w4s_jax.load_workflow({str(tmp_path / "w.py")!r}, client=client, model="m", packages=(), workers=1)
print(workflow("parent"), flush=True)
child = os.fork()
print(workflow("child" if not child else "parent again"), flush=True)
workflow.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "from child", "from parent", "from parent again"]


def test_a_workflow_that_is_dropped_leaves_no_process(tmp_path):
    def children():
        tasks = Path("/proc/self/task").iterdir()
        return {child for task in tasks for child in (task / "children").read_text().split()}

    (tmp_path / "w.py").write_text(ECHO)
    before = children()
    workflow = w4s_jax.load_workflow(
        tmp_path / "w.py", client=Client(lambda payload: ["x"]), model="m", packages=(), workers=1
    )
    assert workflow("?") == "x"
    assert children() > before
    del workflow
    gc.collect()
    deadline = time.monotonic() + 20
    while children() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() <= before


class Refusal(Exception):
    def __init__(self, status, message, param=None):
        super().__init__(message)
        self.status_code, self.param, self.code = status, param, None


def test_a_text_that_the_model_refuses_is_told_to_the_workflow_as_in_the_search(load):
    def answer(payload):
        if len(payload["messages"][0]["content"]) > 10:
            raise Refusal(400, "this model's maximum context length is 10 tokens")
        return ["short enough"]

    shortens = """
def solver(agent, task):
    try:
        return {"answer": agent.call_llm(task)[0]}
    except RuntimeError:
        return {"answer": agent.call_llm(task[:5])[0]}
"""
    assert load(shortens, client=Client(answer), model="m")("a long question") == "short enough"


def test_a_reply_without_its_json_is_asked_for_again(load):
    replies = iter(["no json", "{}", '{"answer": "never asked for"}'])
    client = Client(lambda payload: [next(replies)])
    code = "def solver(agent, task):\n    return {'answer': str(agent.call_json_format_llm(task)[0])}\n"
    assert "the reply has no key 'answer'" in load(code, client=client, model="m")("?")
    assert len(client.asked) == 2


def test_what_a_model_does_not_take_is_learnt_once(load):
    def answer(payload):
        if "temperature" in payload:
            raise Refusal(400, "Unsupported parameter: 'temperature'", param="temperature")
        return ["x"]

    client = Client(answer)
    workflow = load(ECHO, client=client, model="m")
    assert [workflow("1?"), workflow("2?")] == ["x", "x"]
    assert ["temperature" in payload for payload in client.asked] == [True, False, False]


def test_a_reply_without_choices_is_said_as_it_is(load):
    client = Client(lambda payload: [])
    with pytest.raises(InputError, match="model 'm' gave 0 of 1 choices"):
        load(ECHO, client=client, model="m")("?")


@pytest.mark.parametrize("limit", ["concurrency", "max_calls", "item_timeout"])
def test_a_limit_of_nothing_is_refused(load, limit):
    with pytest.raises(InputError, match=f"{limit}=0 is not allowed"):
        load(ECHO, **{limit: 0})
