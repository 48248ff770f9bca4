"""MBPP: one assertion is shown, all are graded, and the function is found in code and assertions."""

import pytest
import small_benchmarks as small
from sandbox_host import opened

from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.mbpp import load_mbpp
from w4s_jax.types import InputError, Split

CODE = """\
def half(x, up=False):
  return round_up(x / 2) if up else x / 2
def round_up(x):
  return int(x) + 1
"""
ROW = {
    "source_file": "Small.ipynb",
    "task_id": 7,
    "prompt": "Write a function to halve a number. ",
    "code": CODE.replace("\n", "\r\n"),
    "test_imports": [],
    "test_list": ["assert half(4) == 2", "assert half(round_up(4)) == 2.5", "assert set([half(0)]) == {0}"],
}


def _load(folder, rows, name="test"):
    small.write_rows(folder / "mbpp" / f"{name}.jsonl", rows)
    return load_mbpp("", TaskOptions(data_dir=folder))


def _item(folder, **fields):
    [item] = [item for split in Split for item in _load(folder, [ROW | fields]).items(split)]
    return item


def test_the_first_assertion_is_shown_the_others_are_hidden_and_all_are_graded(tmp_path):
    item = _item(tmp_path)
    assert item.id == "mbpp/7"
    assert item.entry_point == "half"
    assert item.public_tests == ("assert half(4) == 2",)
    assert item.target == {"tests": ROW["test_list"], "setup": ""}
    assert item.question == (
        "Write a function to halve a number.\n\n"
        "The function begins with\ndef half(x, up=False):\n\n"
        "It has to pass\nassert half(4) == 2"
    )
    assert item.metadata["program"] == CODE


async def test_a_function_that_fails_the_shown_assertion_alone_is_wrong(tmp_path):
    task = _load(tmp_path, [ROW])
    [item] = [item for split in Split for item in task.items(split)]
    wrong = CODE.replace("else x / 2", "else x / 2 if x != 4 else 7").replace("int(x) + 1", "5")
    async with opened("auto", packages=(), workers=1) as pool:
        assert await task.grade(item, CODE, pool) == (1.0, "")
        assert await task.grade(item, wrong, pool) == (0.0, "failed test")


def test_a_row_with_one_assertion_hides_it_and_still_tells_the_functions_first_line(tmp_path):
    item = _item(tmp_path, test_list=["assert half(6) == 3"])
    assert item.public_tests == ()
    assert item.target["tests"] == ["assert half(6) == 3"]
    assert "def half(x, up=False):" in item.question
    assert "half(6)" not in item.question


def test_imports_stand_before_the_public_test_and_with_the_graded_ones(tmp_path):
    tests = ["assert math.isclose(half(3), 1.5)", "assert math.isclose(half(5), 2.5)"]
    item = _item(tmp_path, test_imports=["import math"], test_list=tests)
    assert item.public_tests == ("import math\nassert math.isclose(half(3), 1.5)",)
    assert item.target == {"tests": tests, "setup": "import math"}
    exec(f"{item.metadata['program']}\n{item.public_tests[0]}", {})


def test_the_full_sets_fields_are_read_too(tmp_path):
    full = {key: ROW[key] for key in ("task_id", "code", "test_list")}
    full |= {"text": "Halve it.", "test_setup_code": "four = 4\r\nzero = 0", "challenge_test_list": []}
    [item] = [item for split in Split for item in _load(tmp_path, [full]).items(split)]
    assert item.question.startswith("Halve it.\n\nThe function begins with\ndef half(")
    assert item.target["setup"] == "four = 4\nzero = 0"


def test_backslashes_in_a_gold_programs_patterns_are_no_warning(tmp_path):
    code = "import re\ndef half(x):\n  return re.sub('\\.', '', str(x))\n"
    assert _item(tmp_path, code=code, test_list=["assert half(4) == '4'"]).entry_point == "half"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "def half(x) return"}, "field 'code' is no Python"),
        ({"code": "def twice(x):\n  return 2 * x"}, r"field 'code' defines \['twice'\]; none is called"),
        ({"test_list": ["assert half(4) == 2", "assert 4 == 4"]}, "none is called by every assertion"),
        ({"test_list": ["assert half(4 == 2"]}, "field 'test_list' is no Python"),
        ({"test_list": []}, r"field 'test_list' is \[\]; it must be a list of assertions"),
        ({"test_list": "assert half(4) == 2"}, "field 'test_list' is 'assert half"),
        ({"test_list": [1]}, "field 'test_list' holds something else than texts"),
        ({"prompt": " "}, "field 'prompt' is ' '"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, fields, message):
    with pytest.raises(InputError, match=rf"test\.jsonl:2: .*{message}") as error:
        _load(tmp_path, [ROW, ROW | {"task_id": 8} | fields])
    assert "\n" not in str(error.value)


def test_the_hubs_splits_that_have_files_are_one_pool_in_the_hubs_order(tmp_path):
    for i, split in enumerate(("prompt", "validation", "sanitized_test", "train")):
        small.write_rows(tmp_path / "mbpp" / f"{split}.jsonl", [small.mbpp_row(10 * i + j) for j in range(4)])
    task = load_mbpp("", TaskOptions(data_dir=tmp_path))
    assert sum(len(task.items(split)) for split in Split) == 16
    assert "mbpp/train.jsonl, splits train+test+validation+prompt as one" in task.source
    (tmp_path / "mbpp" / "train.jsonl").unlink()
    task = load_mbpp("", TaskOptions(data_dir=tmp_path))
    assert "sanitized_test.jsonl, splits test+validation+prompt as one" in task.source


def test_gold_programs_of_the_small_rows_pass_all_their_tests(tmp_path):
    task = _load(tmp_path, [small.mbpp_row(i) for i in range(24)])
    for item in (item for split in Split for item in task.items(split)):
        assert set(item.public_tests) <= {
            "\n".join(filter(None, [item.target["setup"], t])) for t in item.target["tests"]
        }
        tests = "\n".join([item.target["setup"], *item.target["tests"]])
        exec(f"{item.metadata['program']}\n{tests}", {})
    assert sum(not item.public_tests for split in Split for item in task.items(split)) == 2
