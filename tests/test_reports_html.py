"""The page: hostile text stays text, nothing is fetched, numbers are the run's, what is missing or cut is said."""

import html.parser
import json
import os
import random
import re
import subprocess
import sys

import pytest
from report_run import (
    FLAGS,
    SEED,
    call,
    lively_turns,
    make_round,
    make_summary,
    ok,
    skipped,
    turn,
    write_lively_run,
    write_run,
)

from w4s_jax.executor.ledger import CallStore
from w4s_jax.reports.html import write_page, write_report
from w4s_jax.reports.markup import escaped, tag
from w4s_jax.reports.spending import read_spending
from w4s_jax.types import InputError, StoreError

VOID = {"meta", "br", "hr"}
FETCHING = {
    "src",
    "srcset",
    "href",
    "xlink:href",
    "action",
    "formaction",
    "data",
    "poster",
    "background",
    "ping",
    "style",
}


class Page(html.parser.HTMLParser):
    """Elements, attributes and texts of a page; fails where an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.texts = [], set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.names.add(name)
        self.attributes += [(name, *pair) for pair in attributes]
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.handle_starttag(name, attributes)
        self.handle_endtag(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        """All that is read, white space as one space."""
        return " ".join("\n".join(t for t in self.texts if not t.startswith(":root")).split())


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


HOSTILE = (
    "</script><script>alert(1)</script>", "</pre></details></style><img src=https://evil.test/x onerror=alert(2)>",
    "' onmouseover='alert(3)", '" autofocus onfocus="alert(4)', "<!-- --!> <![CDATA[ ]]>", "&lt;b&gt; &#60;b&#62;",
    "\ud800 lone", "\x00\x1b[31m\x07", "\u202etxt.exe\u2066", "]]><svg/onload=alert(5)>", "javascript:alert(6)",
)  # fmt: skip


def hostile_run(folder):
    """Every text of a model, a task or a file is hostile."""
    evil = "\n".join(HOSTILE)
    code = f"def solver(agent, task):\n    '''{evil}'''"
    candidates = [
        ok(0, 0.5, code=code, text=evil, symptoms={evil: 3}),
        skipped(1, reason=evil, text=evil),
        skipped(2, reason=f"ValueError: {evil}", code=code, text=evil),
    ]
    summary = make_summary()
    summary["after"]["by_task"] = {evil: {**summary["after"]["by_task"]["toy_ages"], "workflow": evil}}
    flags = FLAGS | {"eval_task": " ".join(HOSTILE[:4]), "meta_agent": HOSTILE[0]}
    turns = [turn(0, 0, 0, candidates, 0, task=evil, seed=f"def solver(a, t):\n    '''{evil}'''")]
    write_run(folder, turns=turns, summary=summary, flags=flags)
    versions = json.loads((folder / "versions.json").read_text())
    versions["meta_agent"]["name"] = evil
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


def test_hostile_text_stays_text(tmp_path):
    page = page_of(write_report(hostile_run(tmp_path / "run")))
    assert not page.names & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "video", "a:script"}
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] == "autofocus"]
    for text in (*HOSTILE[:6], *HOSTILE[9:]):
        assert text in page.text
    for shown in ("\\ud800 lone", "␀␛[31m␇", "\\u202etxt.exe\\u2066"):
        assert shown in page.text


def test_a_hostile_folder_name_stays_text(tmp_path):
    folder = write_run(tmp_path / "<script>alert(1)<", turns=[turn(0, 0, 0, [ok(0, 0.5)], 0)])
    page = page_of(write_report(folder))
    assert "script" not in page.names
    assert "<script>alert(1)<" in page.text


def test_no_attribute_can_be_left():
    assert tag("i", "x", title="\"'><&") == '<i title="&quot;&#x27;&gt;&lt;&amp;">x</i>'
    assert escaped("a\r\nb\tc\x7f") == "a␍\nb\tc\\x7f"


def test_the_page_fetches_nothing(tmp_path):
    for page in (
        page_of(write_report(write_lively_run(tmp_path / "a"))),
        page_of(write_report(hostile_run(tmp_path / "b"))),
    ):
        assert [a for a in page.attributes if a[1] in FETCHING and not (a[1] == "href" and a[2].startswith("#"))] == []
        targets = {a[2][1:] for a in page.attributes if a[1] == "href"}
        assert targets <= {a[2] for a in page.attributes if a[1] == "id"}
        policy = [a[2] for a in page.attributes if a[0] == "meta" and a[1] == "content" and "default-src" in a[2]]
        assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    style = (tmp_path / "a" / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face|https?:", style)
    assert "<" not in style


def test_numbers_on_the_page_are_those_of_the_run(tmp_path):
    turns = [
        turn(0, 0, 0, [ok(0, 0.4, reward=1.0, usd=0.0321, repairs=2), skipped(1)], 0),
        turn(3, 0, 0, [ok(0, 0.7, reward=0.5), ok(1, 0.65)], 0),
    ]
    calls = [
        call(
            "optimisation", usd=0.25, prompt_tokens=1200, completion_tokens=340, cached_prompt_tokens=56, length_stops=7
        ),
        call("test", usd=0.5, prompt_tokens=21, completion_tokens=8),
        call("test", "rate_limit", usd=0.0),
    ]
    rounds = [make_round(0.125, 0.625), make_round(0.5, 0.875)]
    folder = write_run(tmp_path / "run", turns=turns, summary=make_summary(), rounds=rounds, calls=calls)
    text = page_of(write_report(folder)).text
    for shown in (
        "0.330 Best seed workflow 95 % [0.246, 0.427], n = 100",
        "0.390 Before training 95 % [0.300, 0.488], n = 100",
        "0.695 After training 95 % [0.599, 0.777], n = 100",
        "+0.305 Gain, before to after, paired by item 95 % [+0.211, +0.399], n = 100",
        "toy_ages 0.420 [0.294, 0.558] n = 50 0.470 [0.340, 0.610] n = 50 0.770 [0.640, 0.870] n = 50",
        "toy_dates After training w_toy_dates accuracy 0.700 (n = 20) 0.620 (n = 50)",
        "1 2 12 0.125 0.625 0.200 0.400 5 0",
        "c0 0.400 reward 1 chosen 2 repairs · 0.0321 USD",
        "c1 skipped SyntaxError: '(' was never closed 3 repairs · 0 USD",
        "optimisation simulated 1 1,200 56 340 7 0.2500",
        "All 3 1,221 56 348 7 0.7500",
        "rate_limit × 1",
    ):
        assert shown in text
    assert "Simulated The executor was a simulation." in text
    assert "simulated USD is our estimate" in text.replace("Simulated USD", "simulated USD")


def test_intervals_are_drawn_where_they_are(tmp_path):
    text = write_report(write_run(tmp_path / "run", summary=make_summary())).read_text()
    after = re.search(r'<g class="after"><line x1="(\S+)%" x2="(\S+)%"[^>]*/><circle cx="(\S+)%"', text)
    assert [float(x) for x in after.groups()] == [59.9, 77.7, 69.5]


def test_spending_comes_from_the_summary_where_the_ledger_is_elsewhere(tmp_path):
    text = page_of(write_report(write_run(tmp_path / "run", summary=make_summary()))).text
    assert "optimisation – – – – – 0.5000" in text
    assert "All 1,234 100,001 – 50,002 – 0.7500" in text
    assert "timeout × 3" in text
    assert "1 h 6 min" in text
    assert "calls.sqlite: is not in the run directory" in text


def test_a_real_executor_gets_no_badge(tmp_path):
    summary = make_summary() | {"simulated": False}
    page = page_of(write_report(write_run(tmp_path / "run", summary=summary, flags=FLAGS | {"executor": "openai"})))
    assert "The executor was a simulation" not in page.text
    assert "simulated USD" not in page.text


def test_a_killed_run_has_a_page_that_says_what_is_missing(tmp_path):
    turns = [turn(0, 0, 0, [ok(0, 0.4)], 0), turn(0, 0, 1, [skipped(0)], None), turn(1, 0, 0, [ok(0, 0.5)], 0)]
    folder = write_run(tmp_path / "run", turns=turns, updates=[2.0])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "update", "rou')
    with open(folder / "trajectories.jsonl", "a") as file:
        file.write('{"schema_version": 1, "traj')
    page = page_of(write_report(folder))
    assert "This run is not finished" in page.text
    assert "summary.json is missing: the run is not finished, so nothing is known of the test split yet" in page.text
    assert "Collected so far, before: 1 trajectory with 2 finished turns" in page.text
    assert "all skipped: the current workflow stays" in page.text
    assert "Test accuracy 95 %" not in page.text
    assert "Simulated The executor was a simulation." in page.text


@pytest.mark.parametrize("kept", ["run.flags", "summary.json", "trajectories.jsonl", "metrics.jsonl", "calls.sqlite"])
def test_one_file_alone_gives_a_page_or_a_clear_error(tmp_path, kept):
    folder = write_lively_run(tmp_path / "run", num_turns=1, rounds=1)
    for path in folder.iterdir():
        if path.name != kept:
            path.unlink()
    if kept == "calls.sqlite":
        with pytest.raises(InputError, match="holds no run"):
            write_report(folder)
    else:
        assert "is missing" in page_of(write_report(folder)).text


def test_damaged_files_are_named(tmp_path):
    folder = write_lively_run(tmp_path / "run", num_turns=1, rounds=1)
    (folder / "summary.json").write_text("{")
    (folder / "calls.sqlite").write_bytes(b"no database at all" * 100)
    (folder / "trajectories.jsonl").write_text("nonsense\n")
    (folder / "metrics.jsonl").write_text('nonsense\n{"kind": "round", "round": 1, "step": 1, "mean_reward": 0.25}\n')
    text = page_of(write_report(folder)).text
    for said in (
        "summary.json is damaged",
        "calls.sqlite: cannot be read",
        "trajectories.jsonl:1",
        "metrics.jsonl, line 1",
    ):
        assert said in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        write_report(tmp_path / "nowhere")


def test_the_ledger_of_a_run_is_only_read(tmp_path):
    folder = write_lively_run(tmp_path / "run", num_turns=1, rounds=1)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_report(folder)
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert after.pop("report.html")
    assert after == before


async def test_the_ledger_can_be_read_while_the_run_holds_it(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite", now=lambda: 0.0, clock=lambda: 0.0)
    try:
        await store.book(call("test", usd=0.5, prompt_tokens=3))
        await store.begin(call("test", usd=9.0))
        spending = read_spending(tmp_path / "calls.sqlite")
    finally:
        await store.close()
    assert [(row.purpose, row.calls, row.usd) for row in spending.rows] == [("test", 1, 0.5)]
    assert spending.faults == {"in_flight": 1}
    assert spending.simulated


def test_a_test_after_fewer_turns_is_a_row_of_its_own(tmp_path):
    summary = make_summary()
    summary["after_5"] = summary["before"] | {"accuracy": 0.444, "ci95": [0.4, 0.5]}
    text = page_of(write_report(write_run(tmp_path / "run", summary=summary))).text
    assert "After training, 5 turns 0.444 [0.400, 0.500] n = 100" in text


def test_a_report_does_not_depend_on_when_it_is_written(tmp_path):
    folder = write_lively_run(tmp_path / "run", num_turns=1, rounds=1)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_a_large_search_stays_below_five_megabytes_and_says_what_is_left_out(tmp_path):
    rng = random.Random(1)
    tasks = [f"task_{n:02}" for n in range(38)]
    filler = "\n".join(f"    step_{n} = agent.call_llm([task, {n}])" for n in range(60))

    def large(one):
        codes = [f"{c.code}\n{filler}\n    # {rng.random()}" for c in one.candidates]
        pairs = zip(one.candidates, codes, strict=True)
        grown = [ok(c.index, c.score, code=code) if c.score is not None else c for c, code in pairs]
        return turn(one.round, one.trajectory, one.turn, grown, one.chosen, task=one.task)

    turns = [large(t) for t in lively_turns(rng, tasks=tasks, num_turns=10, rounds=3, per_round=30)]
    folder = write_run(tmp_path / "run", turns=turns, flags=FLAGS | {"num_rounds": "3"})
    path = write_report(folder)
    assert 3_000_000 < path.stat().st_size < 5_000_000
    page = page_of(path)
    said = re.search(r"The code of ([\d,]+) of ([\d,]+) candidates is shown", page.text)
    shown, rows = (int(number.replace(",", "")) for number in said.groups())
    assert rows == 38 * 2 * 10 * 5 + 24 * 2 * 5
    assert shown == sum(a[2] == "listing" for a in page.attributes) < rows
    assert "24 of 90 training trajectories are shown" in page.text


def test_the_chosen_of_the_searches_after_training_are_listed_first(tmp_path, monkeypatch):
    monkeypatch.setattr("w4s_jax.reports.html.MOST_BYTES", 110_000)
    turns = [turn(r, t, 0, [ok(0, 0.5, code=SEED + "\n#" * 400), ok(1, 0.4, code=SEED + "\n#" * 400)], 0)
             for r in (0, 1, 3) for t in range(3)]  # fmt: skip
    text = write_report(write_run(tmp_path / "run", turns=turns)).read_text()
    opened = re.findall(r"Whole code of (r\d+-t\d+-turn\d+-c\d+)", text)
    assert opened[:3] == ["r3-t0-turn0-c0", "r3-t1-turn0-c0", "r3-t2-turn0-c0"]
    assert "r3-t0-turn0-c1" not in opened


def test_huge_texts_are_cut_and_said(tmp_path):
    huge = skipped(0, reason="E" * 3_000_000, text="t" * 3_000_000)
    big = ok(1, 0.5, code="def solver(agent, task):\n" + "    x = 1\n" * 300_000, text="a" * 3_000_000)
    path = write_report(write_run(tmp_path / "run", turns=[turn(0, 0, 0, [huge, big], 1)]))
    assert path.stat().st_size < 200_000
    assert "more characters" in page_of(path).text


def test_several_runs_are_compared_on_one_page(tmp_path):
    first = write_run(tmp_path / "first", summary=make_summary(), turns=[turn(0, 0, 0, [ok(0, 0.5)], 0)])
    other = make_summary() | {"simulated": False, "usd": 12.5}
    other["after"] = {**other["after"], "accuracy": 0.812, "ci95": [0.72, 0.88]}
    second = write_run(tmp_path / "second", summary=other)
    versions = json.loads((second / "versions.json").read_text()) | {"executor": "gpt-9"}
    (second / "versions.json").write_text(json.dumps(versions))
    page = page_of(write_page([first, second], tmp_path / "both.html"))
    assert "2 runs Simulated first." in page.text
    assert "These runs have different executors." in page.text  # and were tested on the same items
    assert "second 0.330 [0.246, 0.427] n = 100 0.390 [0.300, 0.488] n = 100 0.812 [0.720, 0.880] n = 100" in page.text
    assert "second tiny gpt-9 +0.305 [+0.211, +0.399] n = 100" in page.text
    assert "12.5000" in page.text
    ids = [a[2] for a in page.attributes if a[1] == "id"]
    assert len(ids) == len(set(ids))


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    folder = write_run(tmp_path / "run", summary=make_summary())
    (tmp_path / "taken").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        write_page([folder], tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "taken"]


def test_the_entry_point_writes_a_page_and_refuses_bad_input(tmp_path):
    folder = write_run(tmp_path / "run", summary=make_summary())

    def command(*flags):
        line = [sys.executable, "-m", "experiments.report", *flags]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, env=os.environ, check=False)

    done = command(f"--run_dirs={folder}", f"--output={tmp_path}/out/page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.695" in (tmp_path / "out" / "page.html").read_text()
    refused = command(f"--run_dirs={tmp_path / 'nowhere'}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: run directory")
    assert len(refused.stderr.splitlines()) == 1
