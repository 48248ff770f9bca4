"""Tasks by name: every name is known or refused with the nearest one, and every task is sealed."""

import json
import logging
from pathlib import Path

import pytest
from small_benchmarks import write_small_benchmarks

from w4s_jax.tasks.base import SealedTask, TaskOptions
from w4s_jax.tasks.custom import CustomFormat
from w4s_jax.tasks.registry import expand_tasks, make_task, task_names
from w4s_jax.tasks.splits import SplitSizes
from w4s_jax.types import InputError, SealedSplitError, Split

DATA = Path(__file__).resolve().parents[2] / "shared" / "datasets"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real benchmark files are not beside the repository")


def _file(path, questions):
    path.write_text("".join(json.dumps({"question": q, "answer": i}) + "\n" for i, q in enumerate(questions)))
    return f"jsonl:{path}"


@real
@pytest.mark.parametrize("name", ["gsm_hard", "gsm-hard", "gsm8k", "mgsm", "mgsm:en+de", "humaneval"])
def test_every_benchmark_is_made_sealed_and_with_seeds(name):
    task = make_task(name, TaskOptions(data_dir=DATA))
    assert isinstance(task, SealedTask)
    assert task.name == name.replace("-", "_")
    assert task.items(Split.VALIDATION)
    assert all("def solver(" in workflow.code for workflow in task.seed_workflows())
    with pytest.raises(SealedSplitError):
        task.items(Split.TEST)


def test_a_toy_task_is_made_without_any_file():
    name = expand_tasks("toy")[0]
    task = make_task(name, TaskOptions(split_seed=3, sizes=SplitSizes(train=4, validation=5, test=6)))
    assert task.split_sizes() == {Split.TRAIN: 4, Split.VALIDATION: 5, Split.TEST: 6}
    other = make_task(name, TaskOptions(split_seed=3, sizes=SplitSizes(test=6)))
    assert task.split_hash(Split.TEST) == other.split_hash(Split.TEST)


def test_a_list_is_expanded_in_order_and_without_repeats():
    toys = expand_tasks("toy")
    assert expand_tasks(" gsm-hard, toy ,gsm_hard,mgsm:de") == ["gsm_hard", *toys, "mgsm:de"]
    assert len(expand_tasks("toy:2")) == 2 * len(toys)


@pytest.mark.parametrize(("name", "nearest"), [("gsmhard", "gsm_hard"), ("human_eval", "humaneval")])
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    for call in (make_task, expand_tasks):
        with pytest.raises(InputError, match=f"{name!r} is unknown, did you mean {nearest!r}.; known are drop"):
            call(name)


@pytest.mark.parametrize(
    ("name", "allowed"), [("gsm8k:en", "it has no variants"), ("gsm_hard:x", "w4s, pal, relative")]
)
def test_an_unknown_variant_is_refused(name, allowed):
    with pytest.raises(InputError, match=f"task {name}: .* is unknown; .*{allowed}"):
        make_task(name)


@pytest.mark.parametrize("name", ["toy_units", "jsonl:own.csv"])
def test_sizes_of_a_name_are_of_benchmarks_alone(name):
    with pytest.raises(InputError, match=f"split_sizes='aflow' is of benchmarks; task {name} takes validation_size"):
        make_task(name, TaskOptions(sizes=SplitSizes(named="aflow")))


def test_named_sizes_that_a_few_languages_cannot_fill_are_refused(tmp_path):
    write_small_benchmarks(tmp_path)
    with pytest.raises(InputError, match="takes 128 / 800 items of mgsm and these languages have 4 / 20; name more"):
        make_task("mgsm:de", TaskOptions(data_dir=tmp_path, sizes=SplitSizes(named="adas")))


@pytest.mark.parametrize("names", ["", " , ", "jsonl:", "toy_nothing", "toy:0"])
def test_a_name_of_nothing_is_refused(names):
    with pytest.raises(InputError):
        expand_tasks(names)


def test_a_group_is_no_single_task():
    with pytest.raises(InputError, match=r"'toy:2' stands for \d+ tasks"):
        make_task("toy:2")


def test_a_custom_file_is_a_task(tmp_path):
    name = _file(tmp_path / "own.jsonl", [f"{i}?" for i in range(10)])
    task = make_task(name, TaskOptions(sizes=SplitSizes(validation=3)), custom=CustomFormat(scorer="numeric"))
    assert len(task.items(Split.VALIDATION)) == 3
    assert str(tmp_path) in task.source


def test_a_question_in_two_splits_is_reported(tmp_path, caplog):
    name = _file(tmp_path / "own.jsonl", ["the same?"] * 10)
    with caplog.at_level(logging.WARNING):
        make_task(name, custom=CustomFormat(scorer="numeric"))
    assert "questions stand in two splits" in caplog.text


def test_all_names_are_listed_once():
    names = task_names()
    assert {"gsm8k", "gsm_hard", "mgsm", "humaneval"} < set(names)
    assert len(names) == len(set(names))
