"""How workflows read replies, against texts written by hand."""

import json
import time

import pytest

from w4s_jax.sandbox.child.agent import ask_for_keys
from w4s_jax.sandbox.child.parsing import extract_answer_str, extract_code_block, missing_note, parse_json_reply
from w4s_jax.tasks.scoring.numbers import parse_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3}, no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{7} and then \boxed{unfinished", "7"),
        ("First 12, then 1,234,567.50 dollars.", "1234567.50"),
        ("The answer is -3.", "-3"),
        ("2.5e-3", "2.5e-3"),
        ("I think so. It is Paris.", "It is Paris."),
        ("one\ntwo\n", "two"),
        ("", ""),
        (42, "42"),
    ],
)
def test_an_answer_is_the_last_box_else_the_last_number_else_the_last_sentence(text, answer):
    assert extract_answer_str(text) == answer


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("1/4", "1/4", 0.25),
        ("The answer is 3 / 4.", "3/4", 0.75),
        ("-1/4 of 12 or \u22121/2", "-1/2", -0.5),
        ("1 1/2", "3/2", 1.5),
        ("about -2 1/3 cups", "-7/3", -7 / 3),
        (r"$-\frac{1}{4}$", "-1/4", -0.25),
        (r"so 2\dfrac{3}{4}", "11/4", 2.75),
        ("5 10/2", "10/2", 5.0),
        ("3/6 = 0.5", "0.5", 0.5),
        ("on 3/4/2020", "2020", 2020.0),
        ("10/hour", "10", 10.0),
        ("1/0", "0", 0.0),
        ("1.5/3", "3", 3.0),
        ("7/8.5", "8.5", 8.5),
        ("10 // 3", "3", 3.0),
        ("\u22125", "-5", -5.0),
        ("10\u22125", "5", 5.0),
        ("def solution():\n    return 12 * 3 / 4", "4", 4.0),
    ],
)
def test_a_fraction_is_one_number_that_a_grader_reads_as_it_was_meant(text, answer, value):
    assert extract_answer_str(text) == answer
    assert parse_number(answer) == value


@pytest.mark.parametrize(
    ("text", "entry_point", "code"),
    [
        ("```python\na = 1\n```\ntext\n```python\nb = 2\n```", None, "b = 2"),
        ("```python\ndef f():\n    pass\n```\n```python\nprint(f())\n```", "f", "def f():\n    pass"),
        ("```\nx = 1\n```\n```json\n{}\n```", None, "x = 1"),
        ("```py\n    return 1\n```", None, "    return 1"),
        ("```python\nnever closed", None, "never closed"),
        ("  x = 1\n", None, "x = 1"),
    ],
)
def test_a_code_block_is_the_last_one_that_defines_the_entry_point(text, entry_point, code):
    assert extract_code_block(text, entry_point) == code


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"answer": "4"}', "4"),
        ('```json\n{"answer": [1, {"a": 2}]}\n```', [1, {"a": 2}]),
        ('Sure {"answer": "a\nb"} done', "a\nb"),
        (r'{"answer": "\(x\) is \frac{1}{2}"}', r"\(x\) is \frac{1}{2}"),
        (r'{"answer": "line\nnext \alpha"}', "line\nnext \\alpha"),
        ('{"answer": "cut off', missing_note("answer")),
        ("[" * 100_000, missing_note("answer")),
        ('["answer"]', missing_note("answer")),
        ("", missing_note("answer")),
    ],
)
def test_a_json_reply_is_read_leniently_and_missing_keys_hold_a_note(text, answer):
    assert parse_json_reply(text, ["answer"])["answer"] == answer


@pytest.mark.parametrize(
    "latex",
    [
        *(r"\frac{1}{2}", r"2\text{ or }\beta", r"x \neq 3", r"x\neq0", r"x\ne y", r"h\nu", r"\nabla f \not= 0"),
        *(r"x \notin A", r"3 \nmid n", r"a\newline b", r"\neg p", r"\theta = \frac12", r"3\times4", r"\tan x"),
        *(r"x\to 0", r"\tfrac{1}{2}", r"\textbf{no}", r"\triangle ABC", r"\rho_1", r"\left( 1 \right)", r"2\rceil"),
        *(r"\Rightarrow\rightarrow", r"\binom{5}{2}", r"\boxed{\bar x}", r"\begin{cases}", r"\forall x", r"90^\circ"),
        *(r"\underline{x} \uparrow", r"\unlhd \beta", r"\(x \neq \sqrt{2}\)"),
    ],
)
@pytest.mark.parametrize("written", [lambda latex: latex, lambda latex: latex.replace("\\", r"\\")])
def test_latex_survives_json_whether_its_backslashes_are_doubled_or_not(latex, written):
    assert parse_json_reply(f'{{"answer": "{written(latex)}"}}', ["answer"])["answer"] == latex


@pytest.mark.parametrize(
    "body",
    [
        *(r"Six.\nThen seven.", r"\nnot \nnext \nnew \nequal", r"1\n\n2", r"\r\nx", r"a\tb \title \try", r"\ni think"),
        r"def f(x):\n\treturn x\n\nprint(f(2))",
        r"while stack:\n\ttop = stack.pop()\n\to, p = top\n\tan = 1\n\top += 1",
        r"import sympy\neq = sympy.Eq(x, 2)\neq1 = 3\neq.subs(x, 1)\ne = 2\ni = 0\ni += 1\nu, v = 1, 2\nmid //= 2",
        r"\u00e9 \/ \" \\ \\n",
        r"\bad \fold \rank",
    ],
)
def test_escapes_that_spell_no_latex_are_read_as_json_has_them(body):
    text = f'{{"answer": "{body}"}}'
    assert parse_json_reply(text, ["answer"]) == json.loads(text)


@pytest.mark.parametrize("piece", ["\\", "\\nu", "\\nu" + "a,a" * 500, "\\neq ", "\\text ", "1/", "1 ", "\\frac{1}"])
def test_a_long_text_is_read_in_time(piece):
    text = piece * (300_000 // len(piece))
    start = time.process_time()
    parse_json_reply('{"answer": "' + text + '"}', ["answer"])
    extract_answer_str(text)
    assert time.process_time() - start < 2.0  # it takes a tenth of that


def test_the_request_for_keys_goes_to_the_last_user_message_and_changes_no_other():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    asked = ask_for_keys(messages, ["x", "y"], "")
    assert [m["content"] for m in asked] == ["a", "b\n\nReply with one JSON object with the keys: x, y.", "c"]
    assert messages[1]["content"] == "b"
