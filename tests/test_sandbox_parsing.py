"""How workflows read replies, against texts written by hand."""

import pytest

from w4s_jax.sandbox.child.agent import ask_for_keys
from w4s_jax.sandbox.child.parsing import extract_answer_str, extract_code_block, missing_note, parse_json_reply


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


def test_the_request_for_keys_goes_to_the_last_user_message_and_changes_no_other():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    asked = ask_for_keys(messages, ["x", "y"], "")
    assert [m["content"] for m in asked] == ["a", "b\n\nReply with one JSON object with the keys: x, y.", "c"]
    assert messages[1]["content"] == "b"
